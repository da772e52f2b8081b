//! The runtime on hosts of a certain kind: cgroup v2 alone, systemd as init, CRIU, ordinary users. What this host has
//! not is told, and counts as ignored. `make test-vm` has all of it.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::path::Path;
use std::process::Command;

use libtest_mimic::Arguments;

mod checkpoint;
#[path = "../it/harness.rs"]
#[allow(dead_code, reason = "shared with other tests")]
mod harness;
mod rootless;
mod systemd;
mod unified;

/// Why a test can't run here.
fn missing(module: &str, name: &str) -> Option<String> {
    let absent = |path: &str, what: &str| (!Path::new(path).exists()).then(|| what.to_owned());
    match module {
        "systemd" => absent("/run/systemd/system", "systemd is not the init here").or_else(|| match name {
            // They look at files and properties of v2.
            "a_unit_comes_and_goes_with_the_container"
            | "limits_are_the_units_and_outlive_a_reload"
            | "update_changes_the_unit"
            | "processes_of_all_kinds_are_in_the_unit" => missing("unified", ""),
            _ => None,
        }),
        "unified" => absent("/sys/fs/cgroup/cgroup.subtree_control", "cgroup v2 is not all there is here"),
        "rootless" => match name {
            "a_user_with_a_range_has_many_users_in_his_container" => {
                absent("/usr/bin/newuidmap", "newuidmap is not installed")
            }
            "a_group_that_is_handed_to_him_limits_his_containers" => missing("unified", ""),
            "his_own_systemd_makes_the_groups" => {
                absent("/run/user/1000/bus", "user 1000 has no systemd here")
            }
            _ => None,
        },
        "checkpoint" => match (criu(), name) {
            (Err(_), "without_criu_the_reason_is_told") => None,
            (Ok(()), "without_criu_the_reason_is_told") => Some("CRIU works here".to_owned()),
            (Err(why), _) => Some(why),
            (Ok(()), "systemd_makes_the_groups_of_a_restored_container") => missing("systemd", ""),
            (Ok(()), _) => None,
        },
        _ => None,
    }
}

/// Whether CRIU works here, or why not.
fn criu() -> Result<(), String> {
    match Command::new("criu").arg("check").output() {
        Ok(output) if output.status.success() => Ok(()),
        Ok(output) => {
            let text = String::from_utf8_lossy(&output.stderr).into_owned();
            Err(format!("CRIU does not work here: {}", text.lines().next().unwrap_or_default()))
        }
        Err(error) => Err(format!("CRIU can't be run: {error}")),
    }
}

macro_rules! tests {
    ($($module:ident: $($name:ident)+;)+) => {
        vec![$($((stringify!($module), stringify!($name), $module::$name as fn())),+),+]
    };
}

fn main() {
    let tests = tests! {
        checkpoint:
            it_goes_on_where_it_was
            it_may_go_on_and_be_restored_from_memory_written_before
            in_the_foreground_output_and_exit_code_are_the_programs
            what_is_the_hosts_is_mounted_again
            a_network_namespace_given_by_path_is_joined_again
            systemd_makes_the_groups_of_a_restored_container
            a_terminal_is_handed_over_again
            what_runc_has_written_is_restored
            failures_are_told_and_leave_nothing
            without_criu_the_reason_is_told;
        rootless:
            a_user_alone_is_root_in_his_container
            a_user_with_a_range_has_many_users_in_his_container
            without_groups_limits_are_refused
            a_group_that_is_handed_to_him_limits_his_containers
            his_own_systemd_makes_the_groups;
        systemd:
            a_unit_comes_and_goes_with_the_container
            limits_are_the_units_and_outlive_a_reload
            update_changes_the_unit
            annotations_are_properties
            the_unit_is_like_runcs
            stopping_the_unit_ends_the_container
            a_failure_leaves_no_unit
            a_unit_is_nobody_elses
            processes_of_all_kinds_are_in_the_unit;
        unified:
            limits_are_in_the_files
            a_group_of_inner_groups_takes_more_processes
            whatever_unified_says_is_written
            controllers_are_handed_on_to_a_container_with_its_own_namespace;
    };
    let trial = |(module, name, test): (&'static str, &'static str, fn())| {
        sampan_testkit::trial(format!("{module}::{name}"), missing(module, name), test)
    };
    libtest_mimic::run(&Arguments::from_args(), tests.into_iter().map(trial).collect()).exit();
}
