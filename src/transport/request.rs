//! The size of a request, limited in the same way for every transport.

use std::io;

use serde::Serialize;

use crate::api::event::Request;

/// The largest request, in its canonical form.
pub const REQUEST_LIMIT: usize = 4 << 20;

/// The size of a request in its canonical form, which [`REQUEST_LIMIT`] bounds.
pub fn size(request: &Request) -> usize {
    let mut counter = Counter(0);
    request
        .serialize(&mut rmp_serde::Serializer::new(&mut counter).with_struct_map())
        .expect("a request has only types that MessagePack can carry, and counting has no limit");
    counter.0
}

/// Whether a request is small enough, or why it is rejected.
pub fn check_size(request: &Request) -> Result<(), String> {
    match size(request) {
        size if size > REQUEST_LIMIT => Err(format!("the request has {size} bytes, {REQUEST_LIMIT} is the most")),
        _ => Ok(()),
    }
}

/// Counts the bytes that would be written.
struct Counter(usize);

impl io::Write for Counter {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0 = self.0.saturating_add(bytes.len());
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::api::configuration::Configuration;

    #[test]
    fn a_request_is_measured_in_its_canonical_form() {
        let config = Configuration { id: "c".into(), ..Configuration::default() };
        let request = Request::Deploy { config, force: false, how: Box::default() };
        assert_eq!(size(&request), rmp_serde::to_vec_named(&request).unwrap().len());
    }
}
