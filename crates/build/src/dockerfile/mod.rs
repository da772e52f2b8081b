//! Dockerfiles: text to instructions, by the rules of BuildKit's parser.
//!
//! ```text
//! text --lines--> logical lines --parse--> Dockerfile { global ARGs, stages of instructions }
//! ```
//!
//! Variables are not expanded here: that needs the values of a build, and happens as it goes ([`expand`]).

pub mod args;
mod excerpt;
pub mod expand;
mod flags;
mod healthcheck;
mod lines;
mod mount;
pub(crate) mod near;
mod parse;
mod substitute;

pub use excerpt::excerpt;
pub use lines::{Directive, heredoc_alone};
pub use mount::{Mount, MountKind, RunMount, Sharing};
pub use parse::parse_instruction;

/// A whole Dockerfile.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Dockerfile {
    /// The character that escapes and that continues lines: `\`, or a backtick.
    pub escape: char,
    /// `# syntax=image`: the frontend to read it with. This one is the only one, so it changes nothing.
    pub syntax: Option<Directive>,
    /// `# check=skip=…;error=…`: how it wants to be checked.
    pub check: Option<Directive>,
    /// The lines where instructions end that have empty lines in their continuation.
    pub empty_continuations: Vec<usize>,
    /// The `ARG`s before the first `FROM`.
    pub args: Vec<Located>,
    /// The stages in order.
    pub stages: Vec<Stage>,
}

/// From one `FROM` to the next.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Stage {
    /// The line of its `FROM`.
    pub line: usize,
    /// The last line of its `FROM`.
    pub end: usize,
    /// The `FROM` as written.
    pub text: String,
    /// The image or stage that it starts from, not expanded.
    pub base: String,
    /// `AS name`, in lower case.
    pub name: Option<String>,
    /// The comments right above it.
    pub comments: Vec<String>,
    /// `--platform`, not expanded.
    pub platform: Option<String>,
    /// What follows.
    pub instructions: Vec<Located>,
}

/// An instruction and where it stands.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Located {
    /// The line where it starts, from 1.
    pub line: usize,
    /// Its last line.
    pub end: usize,
    /// The instruction as written, its lines joined.
    pub text: String,
    /// The comments right above it.
    pub comments: Vec<String>,
    /// What it says.
    pub instruction: Instruction,
}

/// One instruction; texts are as written, not expanded.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Instruction {
    /// `ARG name[=default] …`
    Arg(Vec<(String, Option<String>)>),
    /// `RUN`
    Run(Run),
    /// `COPY` and `ADD`
    Copy(Copy),
    /// `ENV key=value …`
    Env(Vec<(String, String)>),
    /// `LABEL key=value …`
    Label(Vec<(String, String)>),
    /// `WORKDIR path`
    Workdir(String),
    /// `USER name[:group]`
    User(String),
    /// `EXPOSE port …`
    Expose(Vec<String>),
    /// `VOLUME path …`
    Volume(Vec<String>),
    /// `CMD`
    Cmd(Command),
    /// `ENTRYPOINT`
    Entrypoint(Command),
    /// `SHELL [...]`
    Shell(Vec<String>),
    /// `STOPSIGNAL name`
    StopSignal(String),
    /// `HEALTHCHECK`
    Healthcheck(Healthcheck),
    /// `ONBUILD instruction`: its text.
    OnBuild(String),
    /// `MAINTAINER name`
    Maintainer(String),
}

/// A command in either form.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Command {
    /// A text for the shell.
    Shell(String),
    /// The arguments themselves, from a JSON list.
    Exec(Vec<String>),
}

/// `RUN`
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Run {
    /// What to run.
    pub command: Command,
    /// Files given in the Dockerfile itself.
    pub heredocs: Vec<Heredoc>,
    /// `--network`
    pub network: Option<RunNetwork>,
    /// `--security`
    pub security: Option<Security>,
    /// Each `--mount`, in order.
    pub mounts: Vec<RunMount>,
    /// Each `--device`, in order.
    pub devices: Vec<String>,
}

/// `RUN --network`
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum RunNetwork {
    /// As containers have it by default.
    Default,
    /// Only the loopback device.
    None,
    /// The host's.
    Host,
}

/// `RUN --security`
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Security {
    /// As containers are.
    Sandbox,
    /// With all privileges.
    Insecure,
}

/// `COPY` or `ADD`.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Copy {
    /// Whether it is `ADD`.
    pub add: bool,
    /// Paths in the context, or in what `--from` names.
    pub sources: Vec<String>,
    /// Files given in the Dockerfile itself, among the sources.
    pub heredocs: Vec<Heredoc>,
    /// Where to.
    pub destination: String,
    /// `--from`
    pub from: Option<String>,
    /// `--chown`
    pub chown: Option<String>,
    /// `--chmod`: octal or symbolic.
    pub chmod: Option<String>,
    /// `--link`: independent of the layers below.
    pub link: bool,
    /// `COPY --parents`: sources keep their directories.
    pub parents: bool,
    /// Each `--exclude`.
    pub exclude: Vec<String>,
    /// `ADD --checksum`, of what is downloaded.
    pub checksum: Option<String>,
    /// `ADD --keep-git-dir`
    pub keep_git_dir: Option<bool>,
    /// `ADD --unpack`; `None`: local archives are, downloaded ones are not.
    pub unpack: Option<bool>,
}

/// A here-document.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Heredoc {
    /// The word that ends it: its name as a file.
    pub name: String,
    /// Whether variables in it are expanded: the word was not quoted.
    pub expand: bool,
    /// `<<-`: tabs at the start of lines are no part of it.
    pub chomp: bool,
    /// Its text as written, tabs included.
    pub content: String,
}

impl Heredoc {
    /// Its text, without the tabs that [`Heredoc::chomp`] takes away.
    pub fn text(&self) -> String {
        if !self.chomp {
            return self.content.clone();
        }
        self.content.split_inclusive('\n').map(|line| line.trim_start_matches('\t')).collect()
    }
}

/// `HEALTHCHECK`; times in nanoseconds, 0 if not given.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Healthcheck {
    /// `None`: `HEALTHCHECK NONE`.
    pub command: Option<Command>,
    /// `--interval`
    pub interval: i64,
    /// `--timeout`
    pub timeout: i64,
    /// `--start-period`
    pub start_period: i64,
    /// `--start-interval`
    pub start_interval: i64,
    /// `--retries`
    pub retries: i64,
}

/// What is wrong with a Dockerfile, and on which line.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
#[error("{problem}")]
pub struct ParseError {
    /// The line, from 1; 0 if it is none in particular.
    pub line: usize,
    /// What is wrong.
    pub problem: Problem,
}

/// What can be wrong with a line.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Problem {
    /// There is no such instruction.
    #[error("unknown instruction: {name}{}", hint(suggestion.as_deref()))]
    UnknownInstruction {
        /// As written.
        name: String,
        /// The one that may be meant.
        suggestion: Option<&'static str>,
    },
    /// There is nothing in the file.
    #[error("there are no instructions: the Dockerfile cannot be empty")]
    Empty,
    /// The first instruction is not `FROM`.
    #[error("no build stage in current context: {instruction} before the first FROM")]
    NoStage {
        /// The instruction.
        instruction: String,
    },
    /// Too many or too few arguments.
    #[error("{instruction} {requires}")]
    Arguments {
        /// The instruction.
        instruction: String,
        /// What it needs.
        requires: &'static str,
    },
    /// There is no such option.
    #[error("unknown flag: {instruction} {flag}{}", hint(suggestion.as_deref()))]
    UnknownFlag {
        /// The instruction.
        instruction: String,
        /// The option.
        flag: String,
        /// The one that may be meant.
        suggestion: Option<&'static str>,
    },
    /// An option twice, without its value, or with one that is neither `true` nor `false`.
    #[error("{instruction}: {what} {flag}")]
    Flag {
        /// The instruction.
        instruction: String,
        /// What is wrong.
        what: &'static str,
        /// The option.
        flag: String,
    },
    /// A mount of `RUN`.
    #[error("invalid mount `{mount}`: {why}")]
    Mount {
        /// As written.
        mount: String,
        /// What is wrong.
        why: String,
    },
    /// An option or argument is not as it should be.
    #[error("{instruction}: invalid {what} `{value}`")]
    Invalid {
        /// The instruction.
        instruction: String,
        /// Which part.
        what: &'static str,
        /// Its text.
        value: String,
    },
    /// What only the caller of the build can allow.
    #[error("{what} is not allowed: build with `--allow {what}`")]
    NotAllowed {
        /// The entitlement.
        what: String,
    },
    /// What exists elsewhere, but not yet here.
    #[error("{what} is not supported yet")]
    Unsupported {
        /// What.
        what: String,
    },
    /// A here-document does not end.
    #[error("unterminated heredoc `{name}`")]
    UnterminatedHeredoc {
        /// The word that should end it.
        name: String,
    },
    /// A quote, a substitution.
    #[error(transparent)]
    Word(#[from] expand::WordError),
    /// A parser directive.
    #[error("invalid parser directive: {why}")]
    Directive {
        /// Why.
        why: &'static str,
    },
    /// Beyond a limit.
    #[error("the Dockerfile has more than {limit} {what}")]
    Limit {
        /// Of what.
        what: &'static str,
        /// How many are allowed.
        limit: usize,
    },
}

fn hint(suggestion: Option<&str>) -> String {
    suggestion.map(|s| format!(" (did you mean {s}?)")).unwrap_or_default()
}

/// Bytes of a Dockerfile: real ones have some KiB.
pub const MAX_DOCKERFILE_BYTES: usize = 4 * 1024 * 1024;
/// Stages of a Dockerfile.
pub const MAX_STAGES: usize = 1000;
/// Instructions of a Dockerfile: each is a step, and a layer at most.
pub const MAX_INSTRUCTIONS: usize = 20_000;
/// Here-documents of one instruction.
pub const MAX_HEREDOCS: usize = 1000;

impl Dockerfile {
    /// Reads a Dockerfile.
    ///
    /// # Errors
    /// If a line can't be understood; the error has its number.
    pub fn parse(text: &str) -> Result<Dockerfile, ParseError> {
        parse::parse(text)
    }
}
