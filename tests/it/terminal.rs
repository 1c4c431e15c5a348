//! The agent's log on a terminal: what a client says there drives nothing.

use std::fs;
use std::process::{Command, Stdio};

use zeek_cluster_agent::control::client::Client;

use crate::support::{Host, cluster, eventually, set};

#[test]
fn what_the_log_quotes_drives_no_terminal() {
    for format in ["text", "json"] {
        let host = Host::new();
        let shown = host.dir.path().join("shown");
        let mut script = Command::new("script");
        host.prepare(&mut script);
        let run = format!("exec {} run --simulate-nodes -vv --log-format {format}", host.binary.display());
        script.env("TERM", "xterm").args(["-qec", &run, "/dev/null"]).stderr(Stdio::null());
        let mut agent = script.stdout(fs::File::create(&shown).unwrap()).spawn().unwrap();
        let name = "ev\u{1b}[8m\u{9b}2J\u{202e}\r\nforged il";
        eventually("the agent to know its client", || {
            let _client = Client::connect(&host.socket(), name).ok()?;
            let text = fs::read(&shown).unwrap();
            String::from_utf8_lossy(&text).contains("forged").then_some(())
        });
        let mut config = cluster(&[("w1", "")]);
        config.nodes[0].name = "w\u{202e}1".to_owned();
        assert!(host.ask("r", set(config)).success());
        assert_eq!(host.run(&["shutdown", "--nodes"]).code, 0);
        assert!(agent.wait().unwrap().success());
        let text = fs::read_to_string(&shown).unwrap().replace("\r\n", "\n");
        assert!(text.contains("w\\u{202e}1") || text.contains("w\\u202e1"), "{format}: {text:?}");
        let obeyed = |c: char| c.is_control() && c != '\n' || c == '\u{202e}';
        let mut calm = text.clone();
        if format == "text" {
            // The formatter's own.
            for code in ["0", "1", "2", "3", "31", "32", "33", "34", "35"] {
                calm = calm.replace(&format!("\x1b[{code}m"), "");
            }
        }
        assert!(!calm.contains(obeyed), "{format}: {text:?}");
        assert!(!text.lines().any(|line| line.starts_with("forged")), "{format}: {text:?}");
    }
}
