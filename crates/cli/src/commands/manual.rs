//! What shells and `man` need to know of the commands: made here, installed by `make install`.

use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::{Context, Result};
use clap::{Args, Command};
use clap_complete::Shell;

/// `sampan completion`
#[derive(Args)]
pub(crate) struct Completion {
    /// bash, zsh or fish
    #[arg(value_name = "SHELL")]
    shell: Shell,
}

/// `sampan man`
#[derive(Args)]
pub(crate) struct Man {
    /// Where the pages are written
    #[arg(value_name = "DIRECTORY")]
    directory: PathBuf,
}

/// Verbs whose words are names of containers, images, networks and volumes, and what lists those.
const NAMED: [(&str, &str); 4] = [
    (
        "attach commit cp diff exec export inspect kill logs pause port rename restart rm start stats stop top unpause update wait",
        "ps -a --format {{.Names}}",
    ),
    ("history rmi run create save tag push", "images --format {{.Repository}}:{{.Tag}}"),
    ("network", "network ls --format {{.Name}}"),
    ("volume", "volume ls --format {{.Name}}"),
];

pub(crate) fn completion(command: &Completion, mut root: Command) -> Result<ExitCode> {
    let mut out = Vec::new();
    clap_complete::generate(command.shell, &mut root, "sampan", &mut out);
    let more = match command.shell {
        Shell::Bash => bash(),
        Shell::Fish => fish(),
        _ => String::new(),
    };
    let mut stdout = std::io::stdout().lock();
    stdout.write_all(&out)?;
    stdout.write_all(more.as_bytes())?;
    Ok(ExitCode::SUCCESS)
}

/// Names beside the words that the generated function knows.
fn bash() -> String {
    let cases: String = NAMED
        .iter()
        .map(|(verbs, lists)| {
            let lists = lists.replace("{{", "'{{").replace("}}", "}}'");
            format!("            {}) names=$(sampan {lists} 2>/dev/null) ;;\n", verbs.replace(' ', "|"))
        })
        .collect();
    format!(
        r#"
_sampan_and_names() {{
    _sampan "$@"
    local cur="${{COMP_WORDS[COMP_CWORD]}}" verb="" names="" word
    [[ $cur == -* ]] && return 0
    for word in "${{COMP_WORDS[@]:1:COMP_CWORD-1}}"; do
        case "$word" in
            -*|container|image) ;;
            *) verb=$word; break ;;
        esac
    done
    case "$verb" in
{cases}    esac
    [[ -n $names ]] && COMPREPLY+=($(compgen -W "$names" -- "$cur"))
    return 0
}}
complete -F _sampan_and_names -o nosort -o bashdefault -o default sampan
"#
    )
}

fn fish() -> String {
    let line = |(verbs, lists): &(&str, &str)| {
        let lists = lists.replace("{{", "'{{").replace("}}", "}}'");
        format!(
            "complete -c sampan -n \"__fish_seen_subcommand_from {verbs}\" -f -a \"(sampan {lists} 2>/dev/null)\"\n"
        )
    };
    NAMED.iter().map(line).collect()
}

pub(crate) fn manual(command: &Man, root: Command) -> Result<ExitCode> {
    let directory = &command.directory;
    std::fs::create_dir_all(directory).with_context(|| format!("cannot make `{}`", directory.display()))?;
    pages(directory, root, "sampan")?;
    Ok(ExitCode::SUCCESS)
}

/// A page for each verb: sampan-container-ls.1.
fn pages(directory: &Path, command: Command, name: &str) -> Result<()> {
    for verb in command.get_subcommands().filter(|verb| !verb.is_hide_set()) {
        pages(directory, verb.clone(), &format!("{name}-{}", verb.get_name()))?;
    }
    let path = directory.join(format!("{name}.1"));
    let failed = || format!("cannot write `{}`", path.display());
    let mut text = Vec::new();
    clap_mangen::Man::new(command.name(name.to_owned())).render(&mut text).with_context(failed)?;
    std::fs::write(&path, text).with_context(failed)
}
