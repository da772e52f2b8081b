//! Dockerfiles: text to instructions, by the rules of BuildKit's parser.
//!
//! ```text
//! text --lines--> logical lines --parse--> Dockerfile { global ARGs, stages of instructions }
//! ```
//!
//! Variables are not expanded here: that needs the values of a build, and happens as it goes ([`expand`]).

pub mod expand;
mod lines;
mod parse;

pub use parse::parse_instruction;

/// A whole Dockerfile.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Dockerfile {
    /// The character that escapes and that continues lines: `\`, or a backtick.
    pub escape: char,
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
    /// The `FROM` as written.
    pub text: String,
    /// The image or stage that it starts from, not expanded.
    pub base: String,
    /// `AS name`, in lower case.
    pub name: Option<String>,
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
    /// The instruction as written, its lines joined.
    pub text: String,
    /// What it says.
    pub instruction: Instruction,
}

/// One instruction; texts are as written, not expanded.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Instruction {
    /// `ARG name[=default] …`
    Arg(Vec<(String, Option<String>)>),
    /// `RUN`
    Run {
        /// What to run.
        command: Command,
        /// Files given in the Dockerfile itself.
        heredocs: Vec<Heredoc>,
        /// `--network`
        network: Option<String>,
    },
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

/// `COPY` or `ADD`.
#[derive(Clone, PartialEq, Eq, Debug)]
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
    /// `--chmod`
    pub chmod: Option<String>,
}

/// A here-document.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Heredoc {
    /// The word that ends it: its name as a file.
    pub name: String,
    /// Whether variables in it are expanded: the word was not quoted.
    pub expand: bool,
    /// Its text.
    pub content: String,
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
    #[error("unknown flag: {instruction} {flag}")]
    UnknownFlag {
        /// The instruction.
        instruction: String,
        /// The option.
        flag: String,
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
    /// Two stages of one name.
    #[error("duplicate stage name `{name}`")]
    DuplicateStage {
        /// The name.
        name: String,
    },
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

impl Dockerfile {
    /// Reads a Dockerfile.
    ///
    /// # Errors
    /// If a line can't be understood; the error has its number.
    pub fn parse(text: &str) -> Result<Dockerfile, ParseError> {
        parse::parse(text)
    }
}
