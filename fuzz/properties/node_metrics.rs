use zeek_cluster_agent::figures;

/// Any bytes are an answer or none; figures are numbers; and a comment at the end of a page changes nothing.
pub fn holds(data: &[u8]) {
    let captured = figures::answer(data);
    let Some(found) = captured else { return };
    for number in [found.received, found.dropped, found.lag_seconds].into_iter().flatten() {
        assert!(number.is_finite());
    }
    let mut longer = data.to_vec();
    longer.extend(b"\n# zeek_net_received_packets_total 7\n");
    assert_eq!(figures::answer(&longer), captured);
}
