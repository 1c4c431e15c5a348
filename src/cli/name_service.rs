//! Users and groups that the settings name, as the host's name service (nsswitch.conf(5)) knows them. At boot it may not
//! be up yet, so a name that it does not know is asked for again, for a while.

use std::io;
use std::thread::sleep;
use std::time::{Duration, Instant};

use crate::api::rights::User;
use crate::settings::accounts;

/// Between two questions for a name.
const PAUSE: Duration = Duration::from_millis(100);

/// Asks for at most `patience` since it was made, all names together.
pub struct NameService {
    began: Instant,
    patience: Duration,
}

impl NameService {
    pub fn with_patience(patience: Duration) -> Self {
        Self { began: Instant::now(), patience }
    }

    /// The user of this name or number; else what is wrong with it.
    pub fn user(&self, name: &str) -> Result<User, String> {
        self.look_up("user", name, || accounts::user(name))
    }

    /// The number of the group of this name or number; else what is wrong with it.
    pub fn group(&self, name: &str) -> Result<u32, String> {
        self.look_up("group", name, || accounts::group(name))
    }

    fn look_up<T>(&self, kind: &str, name: &str, ask: impl Fn() -> io::Result<Option<T>>) -> Result<T, String> {
        let mut is_told = false;
        loop {
            let why = match ask() {
                Ok(Some(found)) => return Ok(found),
                Ok(None) => format!("{name:?}, and this host has no such {kind}"),
                Err(error) => format!("{name:?}, and this host's name service fails: {error}"),
            };
            if self.began.elapsed() >= self.patience {
                return Err(format!(
                    "{why}; make the {kind}, give another, or see to the name service (nsswitch.conf)"
                ));
            }
            if !is_told {
                is_told = true;
                tracing::warn!("a setting names {why}; the name service is asked again for {:?}", self.patience);
            }
            sleep(PAUSE);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::cell::Cell;

    use super::*;

    #[test]
    fn a_name_that_is_known_later_is_found() {
        let asked = Cell::new(0);
        let found = NameService::with_patience(Duration::from_secs(60)).look_up("user", "zeek", || {
            asked.set(asked.get() + 1);
            match asked.get() {
                1 => Err(io::Error::from_raw_os_error(5)),
                2 => Ok(None),
                _ => Ok(Some(7)),
            }
        });
        assert_eq!((found, asked.get()), (Ok(7), 3));
    }

    #[test]
    fn a_name_that_stays_unknown_is_told_with_the_last_reason() {
        let service = NameService::with_patience(Duration::ZERO);
        let none = service.look_up("group", "zeek", || Ok(None::<u32>)).unwrap_err();
        assert!(none.starts_with("\"zeek\", and this host has no such group; make the group"), "{none}");
        let failing = service.look_up("user", "zeek", || Err::<Option<u32>, _>(io::Error::from_raw_os_error(5)));
        assert!(failing.unwrap_err().contains("name service fails: Input/output error"));
    }
}
