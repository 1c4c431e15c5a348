use super::*;

fn surroundings(variables: &[(&str, &str)]) -> Surroundings {
    let environment = variables.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect();
    Surroundings { environment, is_root: true, hostname: "sensor".to_owned(), has_zeek_user: true }
}

fn with_file(text: &str) -> Result<Settings, Problems> {
    Settings::resolve(&Vec::new(), &surroundings(&[]), Some(&File::of("/etc/z.toml", text)))
}

fn complaint(text: &str) -> String {
    with_file(text).unwrap_err().to_string()
}

#[test]
fn the_highest_layer_wins_and_is_remembered() {
    let file = File::of("/etc/z.toml", "# mine\nname = \"of-file\"\nstop_timeout = 3\nready_timeout = 2.5\n");
    let environment = surroundings(&[("ZEEK_AGENT_NAME", "of-env"), ("ZCA_STOP_TIMEOUT", "4s"), ("ZCA_READY", "")]);
    let flags = vec![("name", "of-flag".to_owned())];
    let settings = Settings::resolve(&flags, &environment, Some(&file)).unwrap();
    assert_eq!(settings.name.as_str(), "of-flag");
    assert_eq!(settings.name.origin.to_string(), "flag --name");
    assert_eq!(settings.stop_timeout.ms, 4000);
    assert_eq!(settings.stop_timeout.origin.to_string(), "environment ZCA_STOP_TIMEOUT");
    assert_eq!(settings.ready_timeout.ms, 2500);
    assert_eq!(settings.ready_timeout.origin.to_string(), "/etc/z.toml:4");
    assert_eq!(*settings.ready, Ready::Checkin);
    assert_eq!(settings.ready.origin, Origin::Default);
}

#[test]
fn defaults_follow_the_host_and_each_other() {
    let settings = Settings::resolve(&Vec::new(), &surroundings(&[]), None).unwrap();
    assert_eq!(settings.name.as_str(), "agent-sensor");
    assert_eq!(settings.state_dir.value, PathBuf::from(SYSTEM_STATE_DIR));
    let mut user = surroundings(&[("HOME", "/home/u")]);
    user.is_root = false;
    let settings = Settings::resolve(&Vec::new(), &user, None).unwrap();
    assert_eq!(settings.state_dir.show(), "/home/u/.local/state/zeek-cluster-agent");
    user.environment.insert("XDG_STATE_HOME".to_owned(), "/state".to_owned());
    let settings = Settings::resolve(&vec![("node_dir", "/n".to_owned())], &user, None).unwrap();
    assert_eq!(settings.control_socket.show(), "/state/zeek-cluster-agent/control.sock");
    assert_eq!(settings.node_dir.show(), "/n");
    assert!(!settings.names_agent());
    let settings = Settings::resolve(&vec![("state_dir", "/s".to_owned())], &user, None).unwrap();
    assert_eq!((settings.node_dir.show(), settings.names_agent()), ("/s/nodes".to_owned(), true));
    user.environment.insert("STATE_DIRECTORY".to_owned(), "/var/lib/a:/var/lib/b".to_owned());
    assert_eq!(Settings::resolve(&Vec::new(), &user, None).unwrap().state_dir.show(), "/var/lib/a");
    user.is_root = true;
    assert_eq!(Settings::resolve(&Vec::new(), &user, None).unwrap().state_dir.show(), "/var/lib/a");
    user.environment.insert("STATE_DIRECTORY".to_owned(), "a".to_owned());
    assert_eq!(Settings::resolve(&Vec::new(), &user, None).unwrap().state_dir.value, PathBuf::from(SYSTEM_STATE_DIR));
    user.hostname = "a/b".to_owned();
    assert_eq!(Settings::resolve(&Vec::new(), &user, None).unwrap().name.as_str(), "agent-localhost");
}

#[test]
fn unknown_keys_name_file_line_and_the_nearest_key() {
    assert_eq!(
        complaint("name = \"a\"\nstop_timout = 1\n[section]\nx = 1\n"),
        "/etc/z.toml:3: unknown setting `section`; the nearest known one is `metrics`\n\
         /etc/z.toml:2: unknown setting `stop_timout`; the nearest known one is `stop_timeout`"
    );
}

#[test]
fn wrong_values_name_file_line_and_key() {
    for (text, problem) in [
        ("name = 1", "/etc/z.toml:1: `name` has the TOML type integer, expected a name: "),
        ("name = \"a b\"", "/etc/z.toml:1: `name` cannot be used: "),
        ("\nstop_timeout = \"soon\"", "/etc/z.toml:2: `stop_timeout` is \"soon\", expected a time: "),
        ("stop_timeout = -1", "/etc/z.toml:1: `stop_timeout` is -1 seconds; 0 to 3650 days are possible"),
        ("stop_timeout = true", "/etc/z.toml:1: `stop_timeout` has the TOML type boolean"),
        ("max_restarts = 1.5", "/etc/z.toml:1: `max_restarts` has the TOML type float"),
        ("node_args = \"-C\"", "/etc/z.toml:1: `node_args` has the TOML type string"),
        ("node_args = [1]", "/etc/z.toml:1: `node_args` has the TOML type integer"),
        ("permanent_exit_codes = [256]", "/etc/z.toml:1: `permanent_exit_codes` has 256, which is no exit code"),
        ("ready = \"maybe\"", "/etc/z.toml:1: `ready` is \"maybe\", expected checkin or alive"),
        ("websocket = \"here\"", "/etc/z.toml:1: `websocket` is \"here\", expected ADDR:PORT, or off"),
        ("request_timeout = 0", "/etc/z.toml:1: `request_timeout` is 0, which leaves no time at all"),
        ("backoff_max = 0.5", "/etc/z.toml:1: `backoff_max` is 500ms, less than backoff_min (1s)"),
        ("space_floor_facts = \"1GiB\"", "/etc/z.toml:1: `space_floor_facts` is 1GiB, more than"),
        ("name = ", "/etc/z.toml:1: "),
        ("name = \"a\"\nname = \"b\"", "/etc/z.toml:2: "),
    ] {
        let found = complaint(text);
        assert!(found.starts_with(problem), "{text:?} gave {found:?}");
    }
}

#[test]
fn all_problems_are_reported_and_only_flags_are_usage() {
    let flags = vec![("state_dir", "/s".to_owned()), ("name", String::new())];
    let problems = Settings::resolve(&flags, &surroundings(&[("ZCA_READY", "no")]), None).unwrap_err();
    assert_eq!(problems.0.len(), 2);
    assert!(!problems.only_flags());
    assert!(problems.to_string().contains("environment ZCA_READY: setting `ready` is \"no\""));
    assert!(Settings::resolve(&flags, &surroundings(&[]), None).unwrap_err().only_flags());
}

#[test]
fn times_sizes_and_lists_can_be_written_in_several_ways() {
    for (text, ms) in [("7", 7000), ("2.5", 2500), ("500ms", 500), ("10min", 600_000), ("2 h", 7_200_000), ("0", 0)] {
        let span = Span::parse(text).unwrap();
        assert_eq!(span.ms, ms);
        assert_eq!(Span::parse(&span.show()).unwrap(), span);
    }
    for (text, bytes) in [("1", 1), ("4k", 4096), ("256MiB", 256 << 20), ("1 GiB", 1 << 30)] {
        let size = Size::parse(text).unwrap();
        assert_eq!(size.bytes, bytes);
        assert_eq!(Size::parse(&size.show()).unwrap(), size);
    }
    for bad in ["", "x", "1y", "1e400", "99999999999999999999", "-1", "nan"] {
        assert!(Span::parse(bad).is_err(), "{bad:?}");
        assert!(Size::parse(bad).is_err(), "{bad:?}");
    }
    let settings = with_file(
        "node_args = [\"-C\", \"x y\"]\npermanent_exit_codes = [2, 3]\njournal_cache = 0x4000000\nstop_timeout = \"1min\"",
    )
    .unwrap();
    assert_eq!(*settings.node_args, ["-C", "x y"]);
    assert_eq!(settings.permanent_exit_codes.0, [2, 3]);
    assert_eq!(settings.journal_cache.show(), "64MiB");
    let environment = surroundings(&[("ZCA_NODE_ARGS", "-C  a"), ("ZCA_PERMANENT_EXIT_CODES", "2, 3")]);
    let settings = Settings::resolve(&Vec::new(), &environment, None).unwrap();
    assert_eq!((settings.node_args.len(), settings.permanent_exit_codes.0.len()), (2, 2));
}

#[test]
fn a_relative_program_path_is_made_absolute_and_a_name_is_not() {
    assert_eq!(ProgramName::parse("zeek").unwrap().0, "zeek");
    assert!(ProgramName::parse("./zeek").unwrap().0.starts_with('/'));
}

#[test]
fn a_passphrase_is_never_shown() {
    let settings = with_file("broker_passphrase = \"sesame\"\nbroker_key = \"/k.pem\"").unwrap();
    assert_eq!(settings.broker_passphrase.0.as_deref(), Some("sesame"));
    let shown: Vec<String> = settings.shown().iter().map(|one| format!("{} {}", one.value, one.json)).collect();
    assert!(shown.iter().all(|text| !text.contains("sesame")) && !format!("{settings:?}").contains("sesame"));
    assert_eq!(settings.broker_key.show(), "/k.pem");
}

#[test]
fn dialects_are_named_and_one_at_least() {
    use crate::api::event::Dialect::{ClusterAgent, Management};
    let dialects =
        |text: &str| with_file(&format!("notify_dialects = {text}")).map(|settings| settings.notify_dialects.value.0);
    assert_eq!(dialects("[\"ClusterAgent\", \"Management\", \"ClusterAgent\"]").unwrap(), [ClusterAgent, Management]);
    for wrong in ["[]", "[\"Operator\"]", "[\"management\"]", "3"] {
        assert!(dialects(wrong).is_err(), "{wrong}");
    }
    assert_eq!(Dialects::parse("Management ClusterAgent").unwrap().0.len(), 2);
}

#[test]
fn the_control_group_is_looked_up() {
    let look_up = |group: &str| match group {
        "zeek" => Ok(991),
        "12" => Ok(12),
        _ => Err("\"broken\", and this host has no such group".to_owned()),
    };
    let gid = |group: &str| with_file(&format!("control_group = {group}")).unwrap().control_gid(look_up);
    assert_eq!(gid("\"zeek\""), Ok(Some(991)));
    assert_eq!(gid("12"), Ok(Some(12)));
    let unknown = gid("\"broken\"").unwrap_err();
    assert!(matches!(unknown, Problem::Unknown { .. }));
    assert!(
        unknown.to_string().contains("`control_group` is \"broken\", and this host has no such group"),
        "{unknown}"
    );
    assert_eq!(with_file("").unwrap().control_gid(look_up), Ok(None));
}

#[test]
fn users_who_may_ask_are_listed_by_name_or_number_and_one_at_least() {
    let users =
        |text: &str| with_file(&format!("request_users = {text}")).map(|settings| settings.request_users.0.clone());
    assert_eq!(with_file("").unwrap().request_users.0, None);
    assert_eq!(users("[\"root\", 995]").unwrap().unwrap(), ["root", "995"]);
    assert_eq!(users("\"root zeek,ops\"").unwrap().unwrap(), ["root", "zeek", "ops"]);
    for wrong in ["[]", "\" , \"", "[\"\"]", "[true]", "3", "[\"a b\"]"] {
        assert!(users(wrong).is_err(), "{wrong}");
    }
    let environment = surroundings(&[("ZCA_REQUEST_USERS", "root, 995")]);
    let settings = Settings::resolve(&Vec::new(), &environment, None).unwrap();
    assert_eq!(settings.request_users.show(), "[\"root\",\"995\"]");
}

#[test]
fn variables_that_look_like_settings_are_noticed() {
    let environment = surroundings(&[("ZCA_STATEDIR", "/s"), ("ZCA_CONFIG", "/c"), ("ZCA_READY", "alive")]);
    let strange = Settings::strange_variables(&environment);
    assert_eq!(strange, ["environment ZCA_STATEDIR is no setting; the nearest one is `state_dir`"]);
    let environment = surroundings(&[("ZCA_NODE", "w1"), ("ZCA_PROGRAM", "/p"), ("ZEEK_AGENT_PORT", "1/tcp")]);
    let strange = Settings::strange_variables(&environment);
    assert!(strange.len() == 1 && strange[0].contains("environment of the node w1"), "{strange:?}");
}

#[test]
fn zeeks_variables_come_after_ours_and_before_the_file() {
    let file = File::of("/etc/z.toml", "listen = \"127.0.0.1:1\"\ncontroller = \"192.0.2.1:1\"");
    let listen = |flags: Flags, variables: &[(&str, &str)]| {
        let settings = Settings::resolve(&flags, &surroundings(variables), Some(&file)).unwrap();
        (settings.listen.show(), settings.listen.origin.to_string())
    };
    let said = |address: &str, from: &str| (address.to_owned(), from.to_owned());
    let zeek = [("ZEEK_AGENT_ADDR", "::1"), ("ZEEK_AGENT_PORT", "3/tcp")];
    let flag = || vec![("listen", "127.0.0.1:4".to_owned())];
    assert_eq!(listen(Flags::new(), &[]), said("127.0.0.1:1", "/etc/z.toml:1"));
    let both = "environment ZEEK_AGENT_ADDR and ZEEK_AGENT_PORT";
    assert_eq!(listen(Flags::new(), &zeek), said("[::1]:3", both));
    let ours = [&zeek[..], &[("ZCA_LISTEN", "off")]].concat();
    assert_eq!(listen(Flags::new(), &ours), said("off", "environment ZCA_LISTEN"));
    assert_eq!(listen(flag(), &ours), said("127.0.0.1:4", "flag --listen"));
    // Whoever is told where an agent is does not become it.
    let node = [&zeek[..], &[("ZCA_NODE", "w1")]].concat();
    assert_eq!(listen(Flags::new(), &node), said("127.0.0.1:1", "/etc/z.toml:1"));
    let wrong = surroundings(&[("ZEEK_CONTROLLER_PORT", "2150/udp")]);
    let problems = Settings::resolve(&Flags::new(), &wrong, Some(&file)).unwrap_err().to_string();
    assert!(problems.starts_with("environment ZEEK_CONTROLLER_PORT: setting `controller` has the port"), "{problems}");
}

#[test]
fn defaults_are_as_the_table_says() {
    let settings = Settings::resolve(&Vec::new(), &surroundings(&[]), None).unwrap();
    for (key, shown) in KEYS.iter().zip(settings.shown()) {
        assert_eq!(key.name, shown.key);
        if !key.default.contains('`') {
            assert_eq!(key.default, shown.value, "default of {}", key.name);
        }
    }
}

/// The table of docs/SETTINGS.md.
fn table() -> String {
    let mut table =
        String::from("| key | environment | type | default | what for |\n| --- | --- | --- | --- | --- |\n");
    for key in KEYS {
        let default = match key.default {
            "" => "none".to_owned(),
            words if words.contains('`') => words.to_owned(),
            value => format!("`{value}`"),
        };
        let doc: Vec<&str> = key.doc.iter().map(|line| line.trim()).collect();
        let variables: Vec<String> =
            [key.variable].iter().chain(key.zeek).map(|variable| format!("`{variable}`")).collect();
        let variables = variables.join(", ");
        table += &format!("| `{}` | {variables} | {} | {default} | {} |\n", key.name, key.kind, doc.join(" "));
    }
    table
}

#[test]
fn settings_md_shows_this_table() {
    let page = include_str!("../../docs/SETTINGS.md");
    assert!(page.contains(&table()), "docs/SETTINGS.md would have to contain:\n{}", table());
}
