//! The journal on a real disk: what it takes in it gives back, through kills, damage and full disks.

// Helpers of tests are tests to everybody but clippy.
#![allow(clippy::unwrap_used)]

#[path = "journal/attack.rs"]
mod attack;
#[path = "journal/basics.rs"]
mod basics;
#[path = "journal/compaction.rs"]
mod compaction;
#[path = "journal/corpus.rs"]
mod corpus;
#[path = "journal/damage.rs"]
mod damage;
#[path = "journal/fixtures.rs"]
mod fixtures;
#[path = "journal/full_disk.rs"]
mod full_disk;
#[path = "common/random.rs"]
#[allow(dead_code, reason = "shared by tests, of which each needs a part")]
mod random;
#[path = "journal/reading.rs"]
mod reading;
#[path = "journal/retention.rs"]
mod retention;
#[path = "journal/support.rs"]
mod support;
