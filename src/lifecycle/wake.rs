//! When the core has to run again, collected along the way: every "is it time?" that is answered with "not yet" is
//! remembered, so that a deadline cannot be checked in one place and forgotten in another.

use std::cell::Cell;

use crate::api::time::BootTime;

pub(super) struct Wake {
    now: BootTime,
    next: Cell<Option<BootTime>>,
}

impl Wake {
    pub fn new(now: BootTime) -> Self {
        Self { now, next: Cell::new(None) }
    }

    /// Whether `at` has come; if not, the core will be woken then.
    pub fn due(&self, at: BootTime) -> bool {
        if at <= self.now {
            return true;
        }
        if self.next.get().is_none_or(|next| at < next) {
            self.next.set(Some(at));
        }
        false
    }

    pub fn next(&self) -> Option<BootTime> {
        self.next.get()
    }
}
