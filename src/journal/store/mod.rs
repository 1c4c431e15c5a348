//! The state directory: the database in it (the only module that uses sled), the files next to it, its lock and
//! identity, and its free space.

pub(in crate::journal) mod database;
pub(in crate::journal) mod database_files;
pub(in crate::journal) mod files;
pub mod identity;
pub(in crate::journal) mod location;
pub mod lock;
pub(in crate::journal) mod shared;
pub(in crate::journal) mod space;
pub(in crate::journal) mod watermark;
