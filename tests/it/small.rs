//! Small file systems of a test's own.

use std::fs::{self, File, OpenOptions};
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::Command;

/// A small file system of this test's own; unmounted when dropped.
pub struct Small(pub PathBuf);

impl Small {
    /// `None`, and the reason on standard error, where this user may not mount.
    pub fn mount(path: PathBuf, size: &str) -> Option<Self> {
        fs::create_dir_all(&path).unwrap();
        let options = format!("size={size},mode=0700");
        Self::call(Command::new("mount").args(["-t", "tmpfs", "-o", &options, "zca-test"]).arg(&path))?;
        Some(Self(path))
    }

    /// A file system with a kernel's idea of errors, in a file.
    pub fn ext4(path: PathBuf, image: &Path) -> Option<Self> {
        fs::create_dir_all(&path).unwrap();
        File::create(image).unwrap().set_len(64 * MIB).unwrap();
        Self::call(Command::new("mkfs.ext4").arg("-qF").arg(image))?;
        Self::call(Command::new("mount").args(["-o", "loop"]).arg(image).arg(&path))?;
        Some(Self(path))
    }

    /// What the kernel does after an error: read-only from now on, under whatever is open.
    pub fn abort(&self) {
        let done = Command::new("mount").args(["-o", "remount,abort"]).arg(&self.0).status();
        assert!(done.is_ok_and(|status| status.success()));
    }

    /// Mounts the same anew; nobody may use it.
    pub fn again(&self) {
        let mounts = fs::read_to_string("/proc/mounts").unwrap();
        let device = mounts
            .lines()
            .filter_map(|line| line.split_once(' '))
            .find_map(|(device, rest)| rest.starts_with(&format!("{} ", self.0.display())).then(|| device.to_owned()));
        let done =
            |command: &mut Command| assert!(command.status().is_ok_and(|status| status.success()), "{command:?}");
        let device = device.expect("it is mounted");
        // The loop device stays as long as the file system that is on it.
        let image = fs::read_to_string(format!("/sys/block/{}/loop/backing_file", device.trim_start_matches("/dev/")));
        done(Command::new("umount").arg(&self.0));
        done(Command::new("mount").args(["-o", "loop"]).arg(image.unwrap().trim()).arg(&self.0));
    }

    /// The directory itself, as a mount.
    pub fn bind(path: PathBuf) -> Option<Self> {
        Self::call(Command::new("mount").arg("--bind").args([&path, &path]))?;
        Some(Self(path))
    }

    /// Another directory at this path.
    pub fn bind_to(path: PathBuf, what: &Path) -> Option<Self> {
        Self::call(Command::new("mount").arg("--bind").arg(what).arg(&path))?;
        Some(Self(path))
    }

    /// What is in `lower`, with changes going to `layers`.
    pub fn overlay(path: PathBuf, lower: &Path, layers: &Path) -> Option<Self> {
        let (upper, work) = (layers.join("upper"), layers.join("work"));
        for directory in [&path, &upper, &work] {
            fs::create_dir_all(directory).unwrap();
        }
        let (lower, upper, work) = (lower.display(), upper.display(), work.display());
        let options = format!("lowerdir={lower},upperdir={upper},workdir={work}");
        Self::call(Command::new("mount").args(["-t", "overlay", "-o", &options, "zca-test"]).arg(&path))?;
        Some(Self(path))
    }

    pub fn read_only(path: PathBuf) -> Option<Self> {
        let mounted = Self::bind(path)?;
        Self::call(Command::new("mount").args(["-o", "remount,bind,ro"]).arg(&mounted.0))?;
        Some(mounted)
    }

    fn call(command: &mut Command) -> Option<()> {
        let why = match command.output() {
            Ok(output) if output.status.success() => return Some(()),
            Ok(output) => String::from_utf8_lossy(&output.stderr).trim().to_owned(),
            Err(error) => error.to_string(),
        };
        let test = std::thread::current();
        let test = test.name().unwrap_or("a test");
        // Not by a macro: what those print is not shown of a test that passes.
        std::io::stderr().write_all(format!("SKIPPED {test}: {command:?}: {why}\n").as_bytes()).unwrap();
        None
    }
}

impl Drop for Small {
    fn drop(&mut self) {
        let unmounted = Command::new("umount").arg("-l").arg(&self.0).status();
        assert!(unmounted.is_ok_and(|status| status.success()), "cannot unmount {}", self.0.display());
    }
}

fn free(path: &Path) -> u64 {
    let stat = rustix::fs::statvfs(path).unwrap();
    stat.f_bavail * stat.f_frsize
}

/// Writes a file until only `left` bytes are free.
pub fn fill(path: &Path, left: u64) -> PathBuf {
    let file = path.join("filler");
    let size = free(path).saturating_sub(left);
    let filler = OpenOptions::new().create(true).append(true).open(&file).unwrap();
    let begins = filler.metadata().unwrap().len();
    if size == 0 {
        return file;
    }
    rustix::fs::fallocate(&filler, rustix::fs::FallocateFlags::empty(), begins, size).unwrap();
    file
}

pub const MIB: u64 = 1 << 20;
