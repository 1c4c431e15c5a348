//! strace's record of everything a process did to its files and sockets, with data, as calls.

use std::collections::BTreeMap;
use std::os::unix::ffi::OsStringExt;
use std::path::PathBuf;

/// What strace is asked for. With `-xx` every string is hexadecimal, so none holds a quote, a comma or a bracket.
pub const ARGS: [&str; 8] = ["-f", "-y", "-qq", "-xx", "-s", "4194304", "-e", CALLS];
const CALLS: &str = "trace=openat,write,writev,pwrite64,fsync,fdatasync,ftruncate,rename,renameat,renameat2,unlink,\
                     unlinkat,rmdir,mkdir,mkdirat,sendto,sendmsg";

/// One system call that succeeded. It took effect between these two lines of the trace.
#[derive(Debug)]
pub struct Call {
    pub entered: usize,
    pub left: usize,
    pub what: What,
}

#[derive(Debug, PartialEq, Eq)]
pub enum What {
    /// Opened to be created if missing.
    Create {
        path: PathBuf,
        truncate: bool,
    },
    MakeDir {
        path: PathBuf,
    },
    Write {
        path: PathBuf,
        at: Option<u64>,
        data: Vec<u8>,
    },
    Truncate {
        path: PathBuf,
        length: u64,
    },
    Sync {
        path: PathBuf,
    },
    Rename {
        from: PathBuf,
        to: PathBuf,
    },
    Unlink {
        path: PathBuf,
    },
    RemoveDir {
        path: PathBuf,
    },
    /// To whoever is at the other end of a socket.
    Sent {
        data: Vec<u8>,
    },
}

/// The calls of a trace, in the order in which they returned, and how many lines it has.
pub fn read(text: &str) -> (Vec<Call>, usize) {
    let mut unfinished: BTreeMap<&str, (usize, String)> = BTreeMap::new();
    let mut calls = Vec::new();
    let mut count = 0;
    for (number, line) in text.lines().enumerate() {
        count = number + 1;
        let Some((process, rest)) = line.split_once(char::is_whitespace) else { continue };
        let rest = rest.trim_start();
        if let Some(begun) = rest.strip_suffix("<unfinished ...>") {
            unfinished.insert(process, (number, begun.to_owned()));
            continue;
        }
        let (entered, whole) = match rest.strip_prefix("<... ") {
            Some(resumed) => {
                let (entered, begun) = unfinished.remove(process).expect("what is resumed was begun");
                let (_, end) = resumed.split_once("resumed>").expect("strace says so");
                (entered, format!("{begun}{end}"))
            }
            None => (number, rest.to_owned()),
        };
        if let Some(what) = call(&whole) {
            calls.push(Call { entered, left: number, what });
        }
    }
    for (entered, begun) in unfinished.into_values() {
        calls.extend(call(&format!("{begun}) = ?")).map(|what| Call { entered, left: count, what }));
    }
    (calls, count)
}

fn call(line: &str) -> Option<What> {
    let (name, rest) = line.split_once('(')?;
    let (arguments, result) = rest.rsplit_once(')')?;
    let result = result.trim().strip_prefix('=')?.trim();
    // `?`: the process was killed meanwhile; only a sync has to have returned to count.
    if result.starts_with('-') || (result.starts_with('?') && name.ends_with("sync")) {
        return None;
    }
    let strings = || arguments.split('"').skip(1).step_by(2).map(unhex);
    let path = |bytes: Vec<u8>| PathBuf::from(std::ffi::OsString::from_vec(bytes));
    let named = || strings().next().map(path);
    // Of the descriptor that comes first: 11</some/file>
    let descriptor = || arguments.split_once('<')?.1.split_once('>').map(|(text, _)| unhex(text));
    let last = || arguments.rsplit(',').next()?.trim().parse().ok();
    match name {
        "openat" if arguments.contains("O_CREAT") => {
            Some(What::Create { path: named()?, truncate: arguments.contains("O_TRUNC") })
        }
        "mkdir" | "mkdirat" => Some(What::MakeDir { path: named()? }),
        "fsync" | "fdatasync" => Some(What::Sync { path: path(descriptor()?) }),
        "ftruncate" => Some(What::Truncate { path: path(descriptor()?), length: last()? }),
        "rename" | "renameat" | "renameat2" => {
            let mut both = strings().map(path);
            Some(What::Rename { from: both.next()?, to: both.next()? })
        }
        "unlink" => Some(What::Unlink { path: named()? }),
        // A name in the directory of the descriptor; what is joined with an absolute one is that one.
        "unlinkat" => {
            let path = path(descriptor()?).join(named()?);
            let is_dir = arguments.contains("AT_REMOVEDIR");
            Some(if is_dir { What::RemoveDir { path } } else { What::Unlink { path } })
        }
        "rmdir" => Some(What::RemoveDir { path: named()? }),
        "write" | "writev" | "sendto" | "sendmsg" | "pwrite64" => {
            let to = descriptor()?;
            let data: Vec<u8> = strings().flatten().collect();
            if to.starts_with(b"socket:") || to.starts_with(b"UNIX") {
                return Some(What::Sent { data });
            }
            let at = if name == "pwrite64" { Some(last()?) } else { None };
            Some(What::Write { path: path(to), at, data })
        }
        _ => None,
    }
}

/// `\x2f\x74` to bytes; what is not of this form is text.
fn unhex(text: &str) -> Vec<u8> {
    let bytes = text.as_bytes();
    if !text.starts_with("\\x") {
        return bytes.to_vec();
    }
    let digit = |byte: &u8| (*byte as char).to_digit(16).expect("strace writes hexadecimal digits") as u8;
    bytes.chunks_exact(4).map(|four| digit(&four[2]) << 4 | digit(&four[3])).collect()
}

#[test]
fn a_trace_becomes_calls() {
    let text = r#"7 openat(AT_FDCWD<\x2f>, "\x2f\x61", O_RDWR|O_CREAT|O_CLOEXEC, 0600) = 3<\x2f\x61>
7 pwrite64(3<\x2f\x61>, "\x00\xff", 2, 512 <unfinished ...>
8 fdatasync(4<\x2f\x62>) = 0
7 <... pwrite64 resumed>)           = 2
8 fsync(4<\x2f\x62>) = -1 EIO (Input/output error)
9 sendto(5<socket:[77]>, "\x68\x69", 2, MSG_NOSIGNAL, NULL, 0) = ?
9 fdatasync(4<\x2f\x61>) = ?
9 unlinkat(6<\x2f\x64>, "\x66", 0) = 0
9 unlinkat(AT_FDCWD<\x2f>, "\x2f\x64", AT_REMOVEDIR) = 0
"#;
    let (calls, lines) = read(text);
    assert_eq!(lines, 9);
    let path = PathBuf::from("/a");
    assert_eq!(calls.len(), 6, "{calls:?}");
    assert_eq!(calls[0].what, What::Create { path: path.clone(), truncate: false });
    assert_eq!(calls[1].what, What::Sync { path: "/b".into() });
    assert_eq!((calls[2].entered, calls[2].left), (1, 3));
    assert_eq!(calls[2].what, What::Write { path, at: Some(512), data: vec![0, 255] });
    assert_eq!(calls[3].what, What::Sent { data: b"hi".to_vec() });
    assert_eq!(calls[4].what, What::Unlink { path: "/d/f".into() });
    assert_eq!(calls[5].what, What::RemoveDir { path: "/d".into() });
}
