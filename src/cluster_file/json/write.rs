//! A configuration to the JSON that zeek-client prints: keys sorted, what is not set null (left out in instances).

use serde_json::{Map, Value, json};

use crate::api::configuration::{Configuration, Instance, Node, Port, UNKNOWN_HOST};

/// The file, indented, with a line end.
pub fn write(config: &Configuration) -> String {
    let mut fields = fields(config);
    fields.insert("id".to_owned(), Value::from(config.id.as_str()));
    let mut text = serde_json::to_string_pretty(&fields).expect("maps of texts and numbers are JSON");
    text.push('\n');
    text
}

/// Everything but the id, in compact form: what the id of a file without one is made from.
pub fn content(config: &Configuration) -> String {
    Value::Object(fields(config)).to_string()
}

fn fields(config: &Configuration) -> Map<String, Value> {
    let mut fields = Map::new();
    fields.insert("instances".to_owned(), config.instances.iter().map(instance).collect());
    fields.insert("nodes".to_owned(), config.nodes.iter().map(node).collect());
    if let Some(backend) = config.cluster_backend {
        fields.insert("cluster_backend".to_owned(), Value::from(backend.as_str()));
    }
    fields
}

fn instance(instance: &Instance) -> Value {
    let mut fields = Map::new();
    fields.insert("name".to_owned(), Value::from(instance.name.as_str()));
    if instance.host != UNKNOWN_HOST || instance.listen_port.is_some() {
        fields.insert("host".to_owned(), Value::from(instance.host.to_string()));
    }
    if let Some(port) = instance.listen_port {
        fields.insert("port".to_owned(), Value::from(port.number));
    }
    Value::Object(fields)
}

fn node(node: &Node) -> Value {
    let number = |port: Option<Port>| port.map(|port| port.number);
    let scripts = Some(&node.scripts).filter(|scripts| !scripts.is_empty());
    let options = Some(&node.options).filter(|options| !options.is_empty());
    json!({
        "name": node.name,
        "instance": node.instance,
        "role": node.role.as_str().to_ascii_uppercase(),
        "port": number(node.port),
        "scripts": scripts,
        "options": options,
        "interface": node.interface,
        "cpu_affinity": node.cpu_affinity,
        "env": node.env,
        "metrics_port": number(node.metrics_port),
    })
}
