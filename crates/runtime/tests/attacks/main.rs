//! The publicly known attacks on OCI runtimes, mounted against this one.
//!
//! Each class has a number, the one of the table in `docs/security.md`; the module that holds its tests says what the
//! attack is, what stops it here, and what its control is. A control is the same attack on a runtime that does the
//! thing naively (`naive.c`), where it must succeed: it proves that the test would see a success. `attacker.c` is what
//! runs on the attacker's side. Needs root, a static busybox and a C compiler.

#![allow(clippy::unwrap_used, clippy::print_stderr, reason = "clippy knows tests by their attribute")]

mod cgroups;
mod configuration;
mod descriptors;
mod executable;
#[path = "../it/harness.rs"]
#[allow(dead_code, reason = "the other test target uses more of it")]
mod harness;
mod places;
mod privileges;
mod processes;
mod procfs;
mod support;

use libtest_mimic::Arguments;

/// What a test is to its class.
#[derive(Clone, Copy)]
enum Side {
    /// The attack fails on our runtime.
    Ours(fn()),
    /// It succeeds on a naive one.
    Control(fn()),
    /// It succeeds on Debian's runc 1.1.5.
    OldRunc(fn()),
    /// It can't be shown to succeed on this host, and why.
    NoControl(&'static str),
}

use Side::{Control, NoControl, OldRunc, Ours};

/// All tests: class, name, side.
const TESTS: &[(&str, &str, Side)] = &[
    ("01", "a_process_on_its_way_in_shows_nothing", Ours(descriptors::shows_nothing)),
    ("01", "a_helper_that_mounts_shows_nothing", Ours(descriptors::helper_shows_nothing)),
    ("01", "control", Control(descriptors::shows_nothing_control)),
    ("02", "the_executable_cannot_be_overwritten", Ours(executable::overwritten)),
    ("02", "control", Control(executable::overwritten_control)),
    ("03", "proc_and_sys_are_mounted_on_ordinary_directories_only", Ours(procfs::ordinary_directories)),
    ("03", "nothing_else_is_mounted_on_proc_or_inside", Ours(procfs::nothing_on_proc)),
    ("03", "control", Control(procfs::fake_proc_control)),
    ("04", "a_swapped_mount_place_never_leads_out", Ours(places::swapped_place)),
    ("04", "control", Control(places::swapped_place_control)),
    ("05", "lengths_do_not_wrap", Ours(configuration::lengths)),
    ("05", "control", Control(configuration::lengths_control)),
    ("06", "exec_makes_nothing_inheritable", Ours(privileges::inheritable)),
    ("06", "control", Control(privileges::inheritable_control)),
    ("07", "a_parameter_is_one_parameter", Ours(procfs::one_parameter)),
    ("07", "control", Control(procfs::one_parameter_control)),
    ("08", "the_hosts_groups_cannot_be_written", Ours(cgroups::hosts_groups)),
    ("08", "control", Control(cgroups::hosts_groups_control)),
    ("08", "control_that_runs_a_release_agent", NoControl("it would run a program on this host as root")),
    ("09", "no_descriptor_leads_out", Ours(descriptors::leads_out)),
    ("09", "no_program_of_the_host_is_run_by_a_descriptor", Ours(descriptors::program_of_the_host)),
    ("09", "what_the_caller_left_open_is_not_handed_on", Ours(descriptors::left_open)),
    ("09", "control", Control(descriptors::leads_out_control)),
    ("10", "nothing_is_made_outside", Ours(places::made_outside)),
    ("10", "control", Control(places::made_outside_control)),
    ("11", "a_swapped_null_masks_nothing_else", Ours(places::swapped_null)),
    ("11", "control", Control(places::swapped_null_control)),
    ("11", "control_old_runc", OldRunc(places::swapped_null_old_runc)),
    ("12", "a_swapped_console_is_none", Ours(places::swapped_console)),
    ("12", "control", Control(places::swapped_console_control)),
    ("13", "writes_to_proc_go_to_proc", Ours(procfs::redirected)),
    ("13", "control", Control(procfs::redirected_control)),
    ("14", "a_dev_that_is_a_link_gets_no_nodes", Ours(places::dev_link)),
    ("14", "control", Control(places::dev_link_control)),
    ("15", "a_null_that_is_a_link_is_no_device", Ours(places::null_link)),
    ("15", "a_console_that_is_a_link_is_no_console", Ours(places::console_link)),
    ("15", "control", Control(places::null_link_control)),
    ("16", "a_user_is_the_one_that_was_named", Ours(configuration::users)),
    ("16", "control", Control(configuration::users_control)),
    ("17", "files_that_are_links_stay_inside", Ours(places::links_stay_inside)),
    ("17", "control", Control(places::links_stay_inside_control)),
    ("18", "roots_whose_directories_are_links_stay_inside", Ours(procfs::linked_directories)),
    ("18", "control", Control(procfs::linked_directories_control)),
    ("18", "control_old_runc", OldRunc(procfs::linked_directories_old_runc)),
    ("19", "another_process_of_the_same_number_is_left_alone", Ours(processes::same_number)),
    ("19", "an_exec_while_the_container_ends_is_in_it_or_nowhere", Ours(processes::exec_while_ending)),
    ("19", "control", Control(processes::same_number_control)),
    ("20", "calls_of_other_architectures_do_not_pass_a_filter", Ours(privileges::architectures)),
    ("20", "what_loads_a_filter_is_gone_when_it_is_loaded", Ours(privileges::filter_order)),
    ("20", "control", Control(privileges::architectures_control)),
    ("21", "ids_and_groups_are_no_paths", Ours(configuration::paths)),
    ("21", "control", Control(configuration::paths_control)),
    ("22", "what_never_ends_is_refused", Ours(configuration::never_ends)),
    ("22", "the_callers_terminal_is_out_of_reach", Ours(processes::callers_terminal)),
    ("22", "control", Control(configuration::never_ends_control)),
    ("22", "control_terminal", Control(processes::callers_terminal_control)),
    ("23", "the_callers_keys_are_out_of_reach", Ours(privileges::keys)),
    ("23", "a_keyring_that_waits_for_the_container_is_not_taken", Ours(privileges::planted_keys)),
    ("23", "the_callers_groups_are_not_the_containers", Ours(privileges::groups)),
    ("23", "control", Control(privileges::keys_control)),
    ("23", "control_old_runc", OldRunc(privileges::planted_keys_old_runc)),
    ("23", "control_groups", Control(privileges::groups_control)),
    ("24", "a_mask_is_not_taken_off_by_a_link", Ours(places::mask_by_link)),
    ("24", "only_the_owner_may_start_a_container", Ours(configuration::gate)),
    ("24", "a_pid_file_that_is_a_link_is_replaced", Ours(configuration::pid_file)),
    ("24", "passwd_is_read_inside_and_not_for_ever", Ours(configuration::passwd)),
    ("24", "groups_nested_deeper_than_a_path_are_removed", Ours(cgroups::nested_deep)),
];

fn main() {
    let (lacking, no_old_runc) = (support::lacking(), support::no_old_runc());
    let trial = |(class, name, side): &(&str, &str, Side)| {
        let name = format!("class_{class}::{name}");
        let (test, lacking) = match *side {
            Ours(test) | Control(test) => (test, lacking.clone()),
            OldRunc(test) => (test, lacking.clone().or_else(|| no_old_runc.clone())),
            NoControl(why) => ((|| ()) as fn(), Some(why.to_owned())),
        };
        sampan_testkit::trial(name, lacking, test)
    };
    let documented =
        sampan_testkit::trial("every_test_is_in_the_table_of_docs_security", None::<String>, || {
            let table =
                std::fs::read_to_string(concat!(env!("CARGO_MANIFEST_DIR"), "/../../docs/security.md"))
                    .unwrap();
            for (class, name, side) in TESTS.iter().filter(|(_, _, side)| matches!(side, Ours(_))) {
                assert!(
                    table.contains(&format!("`{name}`")),
                    "class {class}: {name} is not in docs/security.md"
                );
                let Ours(_) = side else { continue };
            }
        });
    let trials = TESTS.iter().map(trial).chain([documented]).collect();
    libtest_mimic::run(&Arguments::from_args(), trials).exit();
}
