//! What the command line says when something is wrong, in one file of expected texts (`tests/data/words/errors.txt`), compared
//! whole. Those about finding the agent, and those that name Zeek's program, are in [`crate::words`].

use std::fmt::Write;

use crate::support::{Host, Said, cluster, set};
use crate::words::same_as;

/// What was run and what came of it, a line each.
struct Told<'a> {
    host: &'a Host,
    text: String,
}

impl Told<'_> {
    fn run(&mut self, args: &[&str]) -> Said {
        let said = self.host.run(args);
        let shown: Vec<String> =
            args.iter().map(|arg| if arg.is_empty() { "''".to_owned() } else { (*arg).to_owned() }).collect();
        writeln!(self.text, "$ zeek-cluster-agent {}", shown.join(" ")).unwrap();
        self.text.push_str(&said.stderr);
        self.text.push_str(&said.stdout);
        writeln!(self.text, "exit code {}\n", said.code).unwrap();
        said
    }

    /// Several that are alike in what they say of themselves: `code` is that of each.
    fn all(&mut self, code: i32, lines: &[&[&str]]) {
        for line in lines {
            let said = self.run(line);
            assert_eq!(said.code, code, "{line:?}: {said:?}");
        }
    }
}

#[test]
fn what_is_said_when_something_is_wrong() {
    let host = Host::new();
    host.file("good.ini", "[instances]\na1\n[w1]\ninstance = a1\nrole = worker\ninterface = lo\n");
    host.file("empty.ini", "");
    host.file("comment.cfg", "[w1]\ntype=worker\nhost=localhost\ninterface=eth0 # the tap\n");
    host.file("no-export", "no export\n");
    host.file("cursor", "17");
    let mut told = Told { host: &host, text: String::new() };
    // Wrong usage: the words themselves.
    told.all(
        2,
        &[
            &["journal", "dump", "--event", "deplyo"],
            &["journal", "dump", "--since", "soon"],
            &["request", "restart", "--reqid", ""],
            &["request", "welcome", "--timeout", "0"],
            &["request", "welcome", "--via", "http://127.0.0.1"],
            &["nodes", "stop", "w1", "--all"],
            &["nodes", "logs", ""],
            &["notify", "--ready"],
            &["run", "--listen", "here"],
        ],
    );
    // Wrong files and settings.
    told.all(
        78,
        &[
            &["config", "check", "nosuch.ini"],
            &["config", "check", "empty.ini"],
            &["request", "deploy", "comment.cfg"],
            &["run", "--websocket", "0.0.0.0:0"],
        ],
    );
    told.all(
        1,
        &[
            &["journal", "import", "no-export"],
            &["journal", "import", "nosuch"],
            &["journal", "import", "--salvage", "."],
            &["journal", "dump", "--dir", "."],
        ],
    );
    let agent = host.start();
    assert!(host.ask("used", set(cluster(&[("w1", "")]))).success());
    told.all(
        1,
        &[
            &["request", "restart", "nosuch", "--reqid", "r1"],
            &["nodes", "stop", "nosuch", "--reqid", "r2"],
            &["nodes", "start", "nosuch", "--reqid", "r3"],
            &["request", "get-id-value", "Cluster::node", "--nodes", "nosuch", "--reqid", "r4"],
            &["requests", "resume", "nosuch", "--reqid", "r5"],
            &["requests", "drop", "nosuch", "--reqid", "r6"],
            &["nodes", "crash", "nosuch"],
            &["nodes", "logs", "nosuch"],
            &["journal", "show", "nosuch"],
            &["journal", "export", "good.ini"],
            &["journal", "import", "no-export"],
            &["journal", "tail", "--cursor-file", "cursor"],
        ],
    );
    told.all(5, &[&["request", "welcome", "--reqid", "used"]]);
    let pid = (format!("(pid {})", agent.pid()), "(pid PID)");
    agent.kill();
    same_as(&host, "errors.txt", &told.text, &[pid]);
}
