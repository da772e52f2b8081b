//! `checkpoint` and `restore`, and their options.

use std::path::PathBuf;

use super::arguments::{Known, Parsed, flag, value};
use super::commands::{
    BUNDLE, CONSOLE, DETACH, NO_KEYRING, NO_PIVOT, PID_FILE, PIDFD, exit_code, options as create_options,
};
use super::{Context, Failure};
use crate::container;
use crate::container::checkpoint::Options;
use crate::container::run::Mode;
use crate::criu::{CgroupsMode, PageServer};
use crate::error::Refused;

const IMAGES: Known = value("image-path", "DIR", "where the files are (default: ./checkpoint)");
const WORK: Known = value("work-path", "DIR", "where CRIU's log goes (default: to the files)");
const TCP: Known = flag("tcp-established", "keep TCP connections");
const UNIX: Known = flag("ext-unix-sk", "allow connections to Unix sockets outside");
const SHELL: Known = flag("shell-job", "allow a terminal of the caller's");
const LAZY: Known = flag("lazy-pages", "copy memory when it is needed");
const LOCKS: Known = flag("file-locks", "keep locks on files");
const CGROUPS: Known = value(
    "manage-cgroups-mode",
    "MODE",
    "how cgroups are kept: `soft` (default), `full`, `strict` or `ignore`",
);
const EMPTY: Known = value("empty-ns", "NAMESPACE", "leave out the content of a namespace: `network`");
const DEDUP: Known = flag("auto-dedup", "remove memory from earlier files that these have");
const LINKS: Known = flag("link-remap", "allow files that were removed to be linked anew");

pub(super) const CHECKPOINT_OPTIONS: [Known; 17] = [
    IMAGES,
    WORK,
    value("parent-path", "DIR", "earlier files, as a path from --image-path"),
    flag("leave-running", "let the container go on"),
    TCP,
    flag("tcp-skip-in-flight", "leave out TCP connections that are being made"),
    LINKS,
    UNIX,
    SHELL,
    LAZY,
    value("status-fd", "N", "write a byte to descriptor N when memory may be fetched"),
    value("page-server", "ADDRESS:PORT", "send memory to CRIU's page server"),
    LOCKS,
    flag("pre-dump", "write memory only, and let the container go on"),
    CGROUPS,
    EMPTY,
    DEDUP,
];

pub(super) const RESTORE_OPTIONS: [Known; 21] = [
    IMAGES,
    WORK,
    BUNDLE,
    CONSOLE,
    PIDFD,
    PID_FILE,
    NO_PIVOT,
    NO_KEYRING,
    DETACH,
    flag("no-subreaper", "ignored: the runtime adopts no processes"),
    flag("keep", "do not delete the container at its end"),
    TCP,
    LINKS,
    UNIX,
    SHELL,
    LAZY,
    LOCKS,
    CGROUPS,
    EMPTY,
    DEDUP,
    value("lsm-profile", "TYPE:NAME", "the security profile of the processes"),
];

fn options(context: &Context, parsed: &Parsed) -> Result<Options, Refused> {
    let path = |name| parsed.get(name).filter(|path| !path.is_empty()).map(PathBuf::from);
    let cgroups_mode = match parsed.get("manage-cgroups-mode") {
        None | Some("" | "soft") => CgroupsMode::Soft,
        Some("full") => CgroupsMode::Full,
        Some("strict") => CgroupsMode::Strict,
        Some("ignore") => CgroupsMode::Ignore,
        Some(other) => return Err(Refused::Invalid(format!("Invalid manage cgroups mode `{other}`"))),
    };
    let empty_network = match parsed.get("empty-ns") {
        None | Some("") => false,
        Some("network") => true,
        Some(other) => return Err(Refused::Unsupported(format!("--empty-ns {other}"))),
    };
    let page_server = parsed.get("page-server").filter(|address| !address.is_empty()).map(parse_server);
    Ok(Options {
        criu: context.criu.clone(),
        images: path("image-path").unwrap_or_else(|| PathBuf::from("checkpoint")),
        work: path("work-path"),
        parent: path("parent-path"),
        leave_running: parsed.has("leave-running"),
        tcp_established: parsed.has("tcp-established"),
        tcp_skip_in_flight: parsed.has("tcp-skip-in-flight"),
        ext_unix_sk: parsed.has("ext-unix-sk"),
        shell_job: parsed.has("shell-job"),
        file_locks: parsed.has("file-locks"),
        link_remap: parsed.has("link-remap"),
        pre_dump: parsed.has("pre-dump"),
        lazy_pages: parsed.has("lazy-pages"),
        status_fd: parsed.number("status-fd")?,
        page_server: page_server.transpose()?,
        auto_dedup: parsed.has("auto-dedup"),
        cgroups_mode,
        empty_network,
        lsm_profile: parsed.get("lsm-profile").filter(|profile| !profile.is_empty()).map(str::to_owned),
    })
}

fn parse_server(text: &str) -> Result<PageServer, Refused> {
    let split = text.rsplit_once(':').and_then(|(address, port)| Some((address, port.parse().ok()?)));
    let Some((address, port)) = split.filter(|(address, _)| !address.is_empty()) else {
        return Err(Refused::Invalid("Use --page-server ADDRESS:PORT to specify page server".to_owned()));
    };
    Ok(PageServer { address: address.to_owned(), port })
}

pub(super) fn checkpoint(context: &Context, parsed: &Parsed) -> Result<u8, Failure> {
    let options = options(context, parsed)?;
    container::checkpoint(&context.root, &parsed.rest[0], &options, &context.log)?;
    Ok(0)
}

pub(super) fn restore(context: &Context, parsed: &Parsed) -> Result<u8, Failure> {
    let how = options(context, parsed)?;
    let options = create_options(context, parsed)?;
    let mode = match (parsed.has("detach"), parsed.has("keep")) {
        (true, _) => Mode::Detached,
        (false, true) => Mode::Kept,
        (false, false) => Mode::Foreground,
    };
    let code = container::restore(&context.root, &parsed.rest[0], &options, &how, mode, &context.log)?;
    Ok(exit_code(code))
}
