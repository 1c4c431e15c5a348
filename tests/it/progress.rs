//! What somebody sees on a terminal of a command that takes long.

use std::process::{Command, Stdio};

use crate::support::{Host, Said};

/// Runs it on a terminal of its own, and makes some of its system calls take half a second longer. What appears on the
/// terminal is its standard output.
fn slowly_on_a_terminal(host: &Host, args: &str, calls: &str, which: &str) -> Said {
    let slow = format!("strace -f -qq -o /dev/null -e trace={calls} -e inject={calls}:delay_enter=500000:when={which}");
    let mut script = Command::new("script");
    host.prepare(&mut script);
    script.args(["-qec", &format!("{slow} {} {args}", host.binary.display()), "/dev/null"]).stdin(Stdio::null());
    Said::of(script)
}

#[test]
fn who_waits_at_a_terminal_is_told_for_how_long_and_a_log_is_not() {
    let host = Host::new();
    let agent = host.start();
    let told_while_it_waits = |args: &str, told: &str, calls: &str, which: &str| {
        let said = slowly_on_a_terminal(&host, args, calls, which);
        assert_eq!(said.code, 0, "{args}: {said:?}");
        // Rewritten in place, and gone before the result is printed.
        assert!(said.stdout.contains(&format!("\r{told}: 0 s\x1b[K")), "{args}: {said:?}");
        let (_, result) = said.stdout.rsplit_once("\r\x1b[K").expect("the line is cleared");
        assert!(!result.trim().is_empty() && !result.contains(told), "{args}: {said:?}");
        // Without a terminal there is nothing but the result.
        let said = host.run(&args.split(' ').collect::<Vec<_>>());
        assert!(said.code == 0 && said.stderr.is_empty() && !said.stdout.contains('\r'), "{args}: {said:?}");
    };
    let dry = "journal prune --keep 3 --dry-run";
    for (args, told) in [
        ("journal verify", "verifying"),
        ("journal stats", "counting"),
        (dry, "pruning"),
        ("journal compact --force", "compacting"),
    ] {
        // The agent's greeting comes with the first, what is asked with a later one.
        told_while_it_waits(args, told, "recvfrom", "2+");
    }
    agent.kill();
    for (args, told) in [("journal stats", "copying and opening the journal"), (dry, "pruning")] {
        told_while_it_waits(args, told, "pread64", "1");
    }
}
