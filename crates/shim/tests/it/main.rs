//! The shim as a program, over Debian's runc and with containerd. What can't run on this host is reported as
//! ignored, with the reason beside its name.

#![allow(clippy::unwrap_used, clippy::print_stderr, reason = "clippy knows tests by their attribute")]

mod containerd;
mod harness;
mod lifecycle;
mod streams;

use libtest_mimic::Arguments;

/// Why the tests of a module can't run here, if they can't.
fn missing(module: &str) -> Option<&'static str> {
    let absent = |path: &str| !std::path::Path::new(path).exists();
    if !rustix::process::geteuid().is_root() {
        return Some("not root");
    }
    match module {
        _ if absent("/usr/sbin/runc") => Some("no runc"),
        _ if absent("/bin/busybox") => Some("no static busybox"),
        "containerd" if absent("/usr/bin/containerd") || absent("/usr/bin/ctr") => Some("no containerd"),
        _ => None,
    }
}

fn main() {
    let tests: Vec<(&str, &str, fn())> = vec![
        ("containerd", "containerd_runs_executes_and_kills", containerd::containerd_runs_executes_and_kills),
        (
            "lifecycle",
            "a_container_runs_and_its_exit_status_is_kept",
            lifecycle::a_container_runs_and_its_exit_status_is_kept,
        ),
        (
            "lifecycle",
            "signals_end_it_and_show_in_the_status",
            lifecycle::signals_end_it_and_show_in_the_status,
        ),
        (
            "lifecycle",
            "a_command_that_is_not_there_fails_create_and_leaves_nothing",
            lifecycle::a_command_that_is_not_there_fails_create_and_leaves_nothing,
        ),
        ("lifecycle", "execs_have_their_own_lives", lifecycle::execs_have_their_own_lives),
        (
            "lifecycle",
            "our_own_runtime_is_the_shim_itself_and_out_of_reach",
            lifecycle::our_own_runtime_is_the_shim_itself_and_out_of_reach,
        ),
        (
            "lifecycle",
            "a_command_that_outlives_a_killed_shim_holds_the_bundle",
            lifecycle::a_command_that_outlives_a_killed_shim_holds_the_bundle,
        ),
        (
            "lifecycle",
            "processes_of_a_shared_pid_namespace_are_ended_with_the_first",
            lifecycle::processes_of_a_shared_pid_namespace_are_ended_with_the_first,
        ),
        ("lifecycle", "pause_update_and_stats", lifecycle::pause_update_and_stats),
        ("lifecycle", "want_of_memory_is_told", lifecycle::want_of_memory_is_told),
        (
            "lifecycle",
            "a_slow_runtime_holds_up_only_its_own_request",
            lifecycle::a_slow_runtime_holds_up_only_its_own_request,
        ),
        (
            "lifecycle",
            "an_exit_before_the_pid_is_known_is_not_lost",
            lifecycle::an_exit_before_the_pid_is_known_is_not_lost,
        ),
        (
            "lifecycle",
            "delete_cleans_up_after_a_killed_shim",
            lifecycle::delete_cleans_up_after_a_killed_shim,
        ),
        ("lifecycle", "containers_of_one_pod_share_a_shim", lifecycle::containers_of_one_pod_share_a_shim),
        (
            "lifecycle",
            "events_go_through_a_program_where_there_is_no_ttrpc",
            lifecycle::events_go_through_a_program_where_there_is_no_ttrpc,
        ),
        (
            "lifecycle",
            "many_execs_at_once_keep_their_statuses_and_outputs",
            lifecycle::many_execs_at_once_keep_their_statuses_and_outputs,
        ),
        (
            "streams",
            "attached_clients_see_everything_and_give_input",
            streams::attached_clients_see_everything_and_give_input,
        ),
        (
            "streams",
            "a_client_that_does_not_read_holds_the_container_back_but_not_the_shim",
            streams::a_client_that_does_not_read_holds_the_container_back_but_not_the_shim,
        ),
        (
            "streams",
            "a_terminal_has_a_size_and_gives_plain_bytes",
            streams::a_terminal_has_a_size_and_gives_plain_bytes,
        ),
        (
            "streams",
            "execs_attach_with_and_without_terminal_and_do_not_wait_for_what_they_leave",
            streams::execs_attach_with_and_without_terminal_and_do_not_wait_for_what_they_leave,
        ),
        (
            "streams",
            "fifos_survive_their_reader_and_close_io_ends_input",
            streams::fifos_survive_their_reader_and_close_io_ends_input,
        ),
        ("streams", "files_and_loggers_take_output", streams::files_and_loggers_take_output),
    ];
    let trial = |(module, name, test): (&str, &str, fn())| {
        sampan_testkit::trial(format!("{module}::{name}"), missing(module), test)
    };
    // Run by `-- --ignored`, or by another test.
    let measures: [(&str, fn()); 1] = [("lifecycle::speed", lifecycle::speed)];
    let measures =
        measures.map(|(name, run)| sampan_testkit::trial(name, Some("run by hand or by another test"), run));
    let trials = tests.into_iter().map(trial).chain(measures).collect();
    libtest_mimic::run(&Arguments::from_args(), trials).exit();
}
