//! The journal on a real disk: what it takes in it gives back, through kills, damage and full disks.

#[path = "journal/basics.rs"]
mod basics;
#[path = "journal/support.rs"]
mod support;
