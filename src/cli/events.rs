//! What is run for what an operator wants to be told of, from the settings.

use super::name_service::NameService;
use crate::agent::EventOptions;
use crate::api::rights::User;
use crate::settings::{Origin, Problem, Settings};

/// `None`: nothing. As root it runs only if root is named.
pub fn options(
    settings: &Settings,
    is_root: bool,
    names: &NameService,
    node_user: Option<&User>,
) -> Result<Option<EventOptions>, Problem> {
    let Some((program, args)) = settings.event_command.split_first() else { return Ok(None) };
    let origin = || Origin::clone(&settings.event_user.origin);
    let wrong = |problem: String| Problem::Value { key: "event_user", origin: origin(), problem };
    let user = match &settings.event_user.0 {
        Some(name) => {
            let found = names.user(name).map_err(|text| Problem::Unknown {
                key: "event_user",
                origin: origin(),
                problem: format!("is {text}"),
            })?;
            let is_own = found.uid == rustix::process::geteuid().as_raw();
            if !is_own && !is_root {
                return Err(wrong(format!(
                    "is {name:?}, and only an agent that runs as root can run event_command as another user; run it as root, \
                     or leave event_user out"
                )));
            }
            (!is_own).then_some(found)
        }
        None if !is_root => None,
        None => match node_user {
            Some(user) => Some(user.clone()),
            None => {
                return Err(wrong(
                    "is not set, and without a node_user event_command would run as root; name a user, or root"
                        .to_owned(),
                ));
            }
        },
    };
    Ok(Some(EventOptions {
        program: program.clone(),
        args: args.to_vec(),
        user,
        timeout: settings.event_timeout.duration(),
    }))
}
