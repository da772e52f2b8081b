//! Networks in a network namespace that plays the host, with another that plays the world. What can't run on this
//! host is reported as ignored, with the reason beside its name.

#![allow(clippy::unwrap_used, clippy::print_stderr, reason = "clippy knows tests by their attribute")]

mod beside;
mod crash;
mod harness;
mod more;
mod names;
mod traffic;

use libtest_mimic::Arguments;

/// Why the tests of a module can't run here, if they can't.
fn missing(module: &str) -> Option<&'static str> {
    let absent = |path: &str| !std::path::Path::new(path).exists();
    if !rustix::process::geteuid().is_root() {
        return Some("not root");
    }
    match module {
        "six" if absent("/proc/sys/net/ipv6") => Some("the kernel has no IPv6"),
        "beside" if absent("/usr/sbin/iptables-nft") => Some("no iptables-nft"),
        _ => None,
    }
}

fn main() {
    let tests: Vec<(&str, &str, fn())> = vec![
        (
            "beside",
            "traffic_gets_past_dockers_forward_policy_and_its_chain_is_left_as_it_was",
            beside::traffic_gets_past_dockers_forward_policy_and_its_chain_is_left_as_it_was,
        ),
        (
            "crash",
            "the_next_daemon_goes_on_where_the_last_was_killed",
            crash::the_next_daemon_goes_on_where_the_last_was_killed,
        ),
        ("crash", "killed_at_any_moment", crash::killed_at_any_moment),
        (
            "traffic",
            "a_published_port_is_reached_from_everywhere",
            traffic::a_published_port_is_reached_from_everywhere,
        ),
        (
            "traffic",
            "containers_reach_the_world_under_the_hosts_address_and_not_its_loopback",
            traffic::containers_reach_the_world_under_the_hosts_address_and_not_its_loopback,
        ),
        (
            "traffic",
            "a_port_on_one_address_is_not_on_the_others",
            traffic::a_port_on_one_address_is_not_on_the_others,
        ),
        (
            "traffic",
            "a_port_or_an_address_that_is_taken_is_named",
            traffic::a_port_or_an_address_that_is_taken_is_named,
        ),
        (
            "traffic",
            "udp_clients_follow_a_port_to_its_next_container",
            traffic::udp_clients_follow_a_port_to_its_next_container,
        ),
        ("traffic", "networks_are_apart", traffic::networks_are_apart),
        (
            "names",
            "names_are_served_over_udp_and_tcp_and_by_the_next_daemon",
            names::names_are_served_over_udp_and_tcp_and_by_the_next_daemon,
        ),
        (
            "names",
            "questions_go_to_the_next_server_if_one_is_not_there",
            names::questions_go_to_the_next_server_if_one_is_not_there,
        ),
        ("six", "ipv6_is_routed_published_and_kept_apart", more::ipv6_is_routed_published_and_kept_apart),
        ("six", "the_way_out_moves_with_its_ports", more::the_way_out_moves_with_its_ports),
        (
            "more",
            "mapped_namespaces_belong_to_their_user_namespace",
            more::mapped_namespaces_belong_to_their_user_namespace,
        ),
        (
            "more",
            "links_count_and_namespaces_come_from_the_stock",
            more::links_count_and_namespaces_come_from_the_stock,
        ),
        (
            "more",
            "a_network_goes_when_those_that_leave_it_have_gone",
            more::a_network_goes_when_those_that_leave_it_have_gone,
        ),
        (
            "more",
            "an_address_is_free_when_its_container_has_gone",
            more::an_address_is_free_when_its_container_has_gone,
        ),
        (
            "more",
            "a_bridge_without_a_network_goes_and_one_of_the_hosts_stays",
            more::a_bridge_without_a_network_goes_and_one_of_the_hosts_stays,
        ),
        ("traffic", "many_come_and_go_at_once", traffic::many_come_and_go_at_once),
    ];
    let trial = |(module, name, test): (&str, &str, fn())| {
        sampan_testkit::trial(format!("{module}::{name}"), missing(module), test)
    };
    // Run by `-- --ignored`, or by another test.
    let measures: [(&str, fn()); 2] = [("traffic::speed", traffic::speed), ("crash::victim", crash::victim)];
    let measures =
        measures.map(|(name, run)| sampan_testkit::trial(name, Some("run by hand or by another test"), run));
    let trials = tests.into_iter().map(trial).chain(measures).collect();
    libtest_mimic::run(&Arguments::from_args(), trials).exit();
}
