//! What a node is told in its environment and nobody writes down: read from files when the node starts.
//!
//! Only the files' names are in the launch file and in the journal. The shim reads them, as the user that it runs as, before
//! the node becomes another.

use std::collections::BTreeMap;
use std::io::Read;
use std::path::Path;

use super::fault::Fault;
use crate::api::curve;
use crate::regular_file;

/// Far more than a key has.
const FILE_LIMIT: u64 = 4096;

/// The text of each variable, by its file.
pub fn read(files: &BTreeMap<String, String>) -> Result<BTreeMap<String, String>, Fault> {
    files.iter().map(|(variable, file)| Ok((variable.clone(), read_key(Path::new(file))?))).collect()
}

fn read_key(path: &Path) -> Result<String, Fault> {
    let mut text = Vec::new();
    let read = regular_file::read(path).and_then(|file| file.take(FILE_LIMIT).read_to_end(&mut text));
    read.map_err(|error| Fault::of(format!("cannot read the key {}: {error}", path.display()), &error))?;
    let key =
        curve::decode(&text).map_err(|problem| format!("the key {} cannot be used: {problem}", path.display()))?;
    Ok(curve::encode(&key))
}
