//! Users and groups of the host, as its name service (nsswitch.conf(5)) knows them, which may be more than /etc/passwd has.

use std::ffi::CString;
use std::io;

use nix::unistd::{Gid, Group, Uid, User as Entry, getgrouplist};

use crate::api::rights::User;

/// The user of this name or number; `None` if there is none.
pub fn user(name: &str) -> io::Result<Option<User>> {
    let entry = match name.parse() {
        Ok(uid) => Entry::from_uid(Uid::from_raw(uid))?,
        Err(_) => Entry::from_name(name)?,
    };
    let Some(entry) = entry else { return Ok(None) };
    let name = CString::new(entry.name.as_str()).map_err(io::Error::other)?;
    let groups = getgrouplist(&name, entry.gid)?;
    let groups = groups.into_iter().map(Gid::as_raw).collect();
    Ok(Some(User { name: entry.name, uid: entry.uid.as_raw(), gid: entry.gid.as_raw(), groups }))
}

/// The name of the user with this number; `None` if there is none.
pub fn name_of(uid: u32) -> io::Result<Option<String>> {
    Ok(Entry::from_uid(Uid::from_raw(uid))?.map(|entry| entry.name))
}

/// The number of the group of this name; a number is one.
pub fn group(name: &str) -> io::Result<Option<u32>> {
    if let Ok(gid) = name.parse() {
        return Ok(Some(gid));
    }
    Ok(Group::from_name(name)?.map(|group| group.gid.as_raw()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn users_are_found_by_name_and_number_with_their_groups() {
        let root = user("root").unwrap().unwrap();
        assert_eq!((root.name.as_str(), root.uid, root.gid), ("root", 0, 0));
        assert!(root.groups.contains(&0));
        assert_eq!(user("0").unwrap(), Some(root));
        assert_eq!(user("no-such-user-here").unwrap(), None);
        assert_eq!(group("root").unwrap(), Some(0));
        assert_eq!(group("77").unwrap(), Some(77));
        assert_eq!(group("no-such-group-here").unwrap(), None);
    }
}
