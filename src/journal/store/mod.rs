//! The state directory: the database in it (the one module that names sled), the files beside it, its lock and identity,
//! and the space that it has.

pub(in crate::journal) mod database;
pub(in crate::journal) mod database_files;
pub(in crate::journal) mod files;
pub mod identity;
pub(in crate::journal) mod location;
pub mod lock;
pub(in crate::journal) mod shared;
pub(in crate::journal) mod space;
pub(in crate::journal) mod watermark;
