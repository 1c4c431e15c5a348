//! The configurations that were to run here: which one a request means, and what is said if there is none.

use std::borrow::Cow;

use crate::api::configuration::Configuration;
use crate::api::event::DeployOptions;
use crate::api::history::Which;

use super::Lifecycle;

impl Lifecycle {
    /// The configuration that a deploy means: its own, or one of the history.
    pub(super) fn meant<'a>(
        &'a self,
        config: &'a Configuration,
        how: &DeployOptions,
    ) -> Result<Cow<'a, Configuration>, String> {
        let Some(back) = how.back else { return Ok(Cow::Borrowed(config)) };
        match self.durable.past.back(back) {
            Some(record) => Ok(Cow::Borrowed(&record.config.0)),
            None => Err(self.no_such_configuration(&Which::Back(back))),
        }
    }

    /// Why there is no such configuration in the history.
    pub fn no_such_configuration(&self, which: &Which) -> String {
        if *which == Which::Back(0) {
            return "no configuration runs on this host, so there is no @0; `config history` shows those that did"
                .to_owned();
        }
        format!("no configuration {which} in the history of this host; `config history` shows those there are")
    }

    /// How many of a configuration's nodes are this host's.
    pub fn nodes_here(&self, config: &Configuration) -> usize {
        config.nodes.iter().filter(|node| node.instance == self.options.instance.as_str()).count()
    }
}
