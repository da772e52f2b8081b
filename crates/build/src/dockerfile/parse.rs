//! Logical lines to instructions.

use super::expand::split;
use super::flags::{self, Flags};
use super::lines::{self, Logical, lines};
use super::mount::RunMount;
use super::near::suggest;
use super::{
    Command, Copy, Dockerfile, Heredoc, Instruction, Located, MAX_DOCKERFILE_BYTES, MAX_INSTRUCTIONS,
    MAX_STAGES, ParseError, Problem, Run, RunNetwork, Security, Stage,
};

const INSTRUCTIONS: [&str; 18] = [
    "ADD",
    "ARG",
    "CMD",
    "COPY",
    "ENTRYPOINT",
    "ENV",
    "EXPOSE",
    "FROM",
    "HEALTHCHECK",
    "LABEL",
    "MAINTAINER",
    "ONBUILD",
    "RUN",
    "SHELL",
    "STOPSIGNAL",
    "USER",
    "VOLUME",
    "WORKDIR",
];

/// A line after its name and flags.
pub(super) struct Parts<'a> {
    /// In upper case.
    pub(super) name: &'a str,
    pub(super) flags: Flags<'a>,
    pub(super) rest: &'a str,
    escape: char,
}

enum Parsed {
    From { base: String, name: Option<String>, platform: Option<String> },
    Other(Instruction),
}

pub(super) fn parse(text: &str) -> Result<Dockerfile, ParseError> {
    let limit = |what, limit| Problem::Limit { what, limit };
    if text.len() > MAX_DOCKERFILE_BYTES {
        return Err(ParseError { line: 0, problem: limit("bytes", MAX_DOCKERFILE_BYTES) });
    }
    let (directives, logical) = lines(text)?;
    if let Some(first) = logical.get(MAX_INSTRUCTIONS) {
        return Err(ParseError { line: first.line, problem: limit("instructions", MAX_INSTRUCTIONS) });
    }
    let escape = directives.escape.unwrap_or('\\');
    let mut file = Dockerfile {
        escape,
        syntax: directives.syntax,
        check: directives.check,
        empty_continuations: logical.iter().filter_map(|l| l.empty_continuation).collect(),
        args: Vec::new(),
        stages: Vec::new(),
    };
    for Logical { line, end, text, heredocs, comments, .. } in logical {
        let at = |problem| ParseError { line, problem };
        match instruction(&text, heredocs, escape).map_err(at)? {
            Parsed::From { base, name, platform } => {
                if file.stages.len() == MAX_STAGES {
                    return Err(at(limit("stages", MAX_STAGES)));
                }
                let instructions = Vec::new();
                file.stages.push(Stage { line, end, text, base, name, comments, platform, instructions });
            }
            Parsed::Other(instruction) => {
                let list = match (file.stages.last_mut(), &instruction) {
                    (Some(stage), _) => &mut stage.instructions,
                    (None, Instruction::Arg(_)) => &mut file.args,
                    (None, _) => {
                        let instruction = text.split_whitespace().next().unwrap_or("").to_ascii_uppercase();
                        return Err(at(Problem::NoStage { instruction }));
                    }
                };
                list.push(Located { line, end, text, comments, instruction });
            }
        }
    }
    if file.stages.is_empty() {
        let problem = if file.args.is_empty() {
            Problem::Empty
        } else {
            Problem::NoStage { instruction: "ARG alone".to_owned() }
        };
        return Err(ParseError { line: 0, problem });
    }
    Ok(file)
}

/// Reads one instruction that stands alone, perhaps with its here-documents: a trigger of a base image, a `--change`
/// of commit or import.
///
/// # Errors
/// If it can't be understood, or is `FROM`.
pub fn parse_instruction(text: &str) -> Result<Instruction, Problem> {
    let (_, mut logical) = lines(text).map_err(|e| e.problem)?;
    let Logical { text, heredocs, .. } = logical.pop().ok_or(Problem::Empty)?;
    if !logical.is_empty() {
        return Err(Problem::Unsupported { what: "more than one instruction here".to_owned() });
    }
    match instruction(&text, heredocs, '\\')? {
        Parsed::Other(instruction) => Ok(instruction),
        Parsed::From { .. } => Err(Problem::Unsupported { what: "FROM here".to_owned() }),
    }
}

fn instruction(text: &str, heredocs: Vec<Heredoc>, escape: char) -> Result<Parsed, Problem> {
    let (name, rest) = text.split_once(char::is_whitespace).unwrap_or((text, ""));
    let upper = name.to_ascii_uppercase();
    if !INSTRUCTIONS.contains(&upper.as_str()) {
        let name = name.chars().take(50).collect::<String>();
        return Err(Problem::UnknownInstruction { suggestion: suggest(&upper, &INSTRUCTIONS), name });
    }
    let (flags, rest) = flags::take(rest);
    let mut parts = Parts { name: &upper, flags: Flags::new(&upper, flags), rest: rest.trim(), escape };
    let parsed = match upper.as_str() {
        "FROM" => parts.from()?,
        _ => Parsed::Other(parts.instruction(heredocs)?),
    };
    parts.flags.finish()?;
    Ok(parsed)
}

impl Parts<'_> {
    fn instruction(&mut self, heredocs: Vec<Heredoc>) -> Result<Instruction, Problem> {
        Ok(match self.name {
            "RUN" => Instruction::Run(self.run(heredocs)?),
            "COPY" | "ADD" => Instruction::Copy(self.copy(heredocs)?),
            "ARG" => Instruction::Arg(self.args()?),
            "ENV" => Instruction::Env(self.pairs()?),
            "LABEL" => Instruction::Label(self.pairs()?),
            "WORKDIR" => Instruction::Workdir(self.whole()?),
            "USER" => Instruction::User(self.whole()?),
            "STOPSIGNAL" => Instruction::StopSignal(self.whole()?),
            "MAINTAINER" => Instruction::Maintainer(self.whole()?),
            "EXPOSE" => Instruction::Expose(self.words()?),
            "VOLUME" => Instruction::Volume(self.json_or_words()?),
            "CMD" => Instruction::Cmd(self.command()?),
            "ENTRYPOINT" => Instruction::Entrypoint(self.command()?),
            "SHELL" => self.shell()?,
            "HEALTHCHECK" => Instruction::Healthcheck(self.healthcheck()?),
            // The caller knows the name; FROM is its own.
            _ => self.onbuild(&heredocs)?,
        })
    }

    pub(super) fn wrong(&self, requires: &'static str) -> Problem {
        Problem::Arguments { instruction: self.name.to_owned(), requires }
    }

    pub(super) fn invalid(&self, what: &'static str, value: &str) -> Problem {
        Problem::Invalid { instruction: self.name.to_owned(), what, value: value.to_owned() }
    }

    fn words(&self) -> Result<Vec<String>, Problem> {
        let words: Vec<String> = self.rest.split_whitespace().map(str::to_owned).collect();
        if words.is_empty() { Err(self.wrong("requires at least one argument")) } else { Ok(words) }
    }

    fn whole(&self) -> Result<String, Problem> {
        if self.rest.is_empty() {
            Err(self.wrong("requires exactly one argument"))
        } else {
            Ok(self.rest.to_owned())
        }
    }

    /// A list, if it is written as one; what is no JSON at all is not.
    fn json(&self, text: &str) -> Result<Option<Vec<String>>, Problem> {
        if !text.starts_with('[') {
            return Ok(None);
        }
        let Ok(list) = serde_json::from_str::<Vec<serde_json::Value>>(text) else { return Ok(None) };
        let strings = list.into_iter().map(|item| match item {
            serde_json::Value::String(text) => Some(text),
            _ => None,
        });
        let strings: Option<Vec<String>> = strings.collect();
        strings.map(Some).ok_or_else(|| self.wrong("has a JSON list with something other than strings"))
    }

    fn json_or_words(&self) -> Result<Vec<String>, Problem> {
        match self.json(self.rest)? {
            Some(list) if list.is_empty() => Err(self.wrong("requires at least one argument")),
            Some(list) => Ok(list),
            None => self.words(),
        }
    }

    fn command(&self) -> Result<Command, Problem> {
        self.command_of(self.rest)
    }

    pub(super) fn command_of(&self, text: &str) -> Result<Command, Problem> {
        Ok(match self.json(text)? {
            Some(list) => Command::Exec(list),
            None => Command::Shell(text.to_owned()),
        })
    }

    fn from(&mut self) -> Result<Parsed, Problem> {
        let platform = self.flags.text("platform")?;
        let words = self.words().map_err(|_| self.wrong("requires either one or three arguments"))?;
        let (base, name) = match words.as_slice() {
            [base] => (base, None),
            [base, r#as, name] if r#as.eq_ignore_ascii_case("as") => (base, Some(name.to_lowercase())),
            _ => return Err(self.wrong("requires either one or three arguments")),
        };
        let letter = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.');
        if let Some(name) = &name
            && (!name.starts_with(|c: char| c.is_ascii_alphabetic()) || !name.chars().all(letter))
        {
            return Err(self.invalid("name for a build stage", name));
        }
        Ok(Parsed::From { base: base.clone(), name, platform })
    }

    fn run(&mut self, heredocs: Vec<Heredoc>) -> Result<Run, Problem> {
        let network = match self.flags.text("network")?.as_deref() {
            None => None,
            Some("default") => Some(RunNetwork::Default),
            Some("none") => Some(RunNetwork::None),
            Some("host") => Some(RunNetwork::Host),
            Some(other) => return Err(self.invalid("network", other)),
        };
        let security = match self.flags.text("security")?.as_deref() {
            None => None,
            Some("sandbox") => Some(Security::Sandbox),
            Some("insecure") => Some(Security::Insecure),
            Some(other) => return Err(self.invalid("security mode", other)),
        };
        let mounts = self.flags.texts("mount")?.into_iter().map(|text| RunMount::parse(&text));
        let mounts = mounts.collect::<Result<_, _>>()?;
        let devices = self.flags.texts("device")?;
        if self.rest.is_empty() {
            return Err(self.wrong("requires at least one argument"));
        }
        let command = self.command()?;
        if command == Command::Exec(Vec::new()) {
            return Err(self.wrong("requires at least one argument"));
        }
        Ok(Run { command, heredocs, network, security, mounts, devices })
    }

    fn copy(&mut self, heredocs: Vec<Heredoc>) -> Result<Copy, Problem> {
        let add = self.name == "ADD";
        // Names with blanks need the JSON form: quotes do not hold words together here.
        let json = self.json(self.rest)?;
        let is_json = json.is_some();
        let mut words = match json {
            Some(list) => list,
            None => self.rest.split_whitespace().map(str::to_owned).collect(),
        };
        let (chown, chmod) = (self.flags.text("chown")?, self.flags.text("chmod")?);
        let link = self.flags.bool("link")?.unwrap_or(false);
        let exclude = self.flags.texts("exclude")?;
        let mut copy = Copy { add, chown, chmod, link, exclude, heredocs, ..Copy::default() };
        if add {
            copy.checksum = self.flags.text("checksum")?;
            copy.keep_git_dir = self.flags.bool("keep-git-dir")?;
            copy.unpack = self.flags.bool("unpack")?;
        } else {
            copy.from = self.flags.text("from")?;
            copy.parents = self.flags.bool("parents")?.unwrap_or(false);
        }
        if words.len() < 2 {
            return Err(self.wrong("requires at least two arguments"));
        }
        // At least two, as of the lines above.
        copy.destination = words.pop().unwrap_or_default();
        let is_heredoc = |word: &str| !is_json && lines::opening(word, self.escape).is_some();
        if is_heredoc(&copy.destination) {
            return Err(self.wrong("cannot have a here-document as its destination"));
        }
        words.retain(|word| !is_heredoc(word));
        copy.sources = words;
        Ok(copy)
    }

    fn args(&self) -> Result<Vec<(String, Option<String>)>, Problem> {
        let words = split(self.rest, self.escape);
        if words.is_empty() {
            return Err(self.wrong("requires at least one argument"));
        }
        let mut args = Vec::new();
        for word in words {
            let (name, value) = match word.split_once('=') {
                Some((name, value)) => (name, Some(value.to_owned())),
                None => (word.as_str(), None),
            };
            if name.is_empty() {
                return Err(self.wrong("names can not be blank"));
            }
            args.push((name.to_owned(), value));
        }
        Ok(args)
    }

    /// `key=value …`, or the old form `key the rest of the line`.
    fn pairs(&self) -> Result<Vec<(String, String)>, Problem> {
        let words = split(self.rest, self.escape);
        let Some(first) = words.first() else {
            return Err(self.wrong("requires at least one argument"));
        };
        if !first.contains('=') {
            let (key, value) = self
                .rest
                .split_once(char::is_whitespace)
                .ok_or_else(|| self.wrong("must have two arguments"))?;
            return Ok(vec![(key.to_owned(), value.trim_start().to_owned())]);
        }
        let pair = |word: &String| {
            let (key, value) =
                word.split_once('=').ok_or_else(|| self.invalid("argument without `=`", word))?;
            if key.is_empty() {
                Err(self.wrong("names can not be blank"))
            } else {
                Ok((key.to_owned(), value.to_owned()))
            }
        };
        words.iter().map(pair).collect()
    }

    fn shell(&self) -> Result<Instruction, Problem> {
        match self.json(self.rest)? {
            Some(list) if !list.is_empty() => Ok(Instruction::Shell(list)),
            _ => Err(self.wrong("requires the arguments to be in JSON form")),
        }
    }

    fn onbuild(&self, heredocs: &[Heredoc]) -> Result<Instruction, Problem> {
        let mut trigger = self.whole()?;
        let first = trigger.split_whitespace().next().unwrap_or("").to_ascii_uppercase();
        if matches!(first.as_str(), "ONBUILD" | "FROM" | "MAINTAINER") {
            return Err(self.invalid("trigger", &first));
        }
        // A trigger that could never run is told here, not in the build that uses the image; one that nobody knows yet
        // may be for a newer builder.
        match instruction(&trigger, heredocs.to_vec(), self.escape) {
            Ok(_) | Err(Problem::UnknownInstruction { .. }) => {}
            Err(problem) => return Err(problem),
        }
        for heredoc in heredocs {
            trigger.push('\n');
            trigger.push_str(&heredoc.content);
            trigger.push_str(&heredoc.name);
        }
        Ok(Instruction::OnBuild(trigger))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Parses and shows, an instruction a line.
    fn show(text: &str) -> String {
        match Dockerfile::parse(text) {
            Ok(file) => {
                let mut out = String::new();
                for arg in &file.args {
                    out.push_str(&format!("{}: {:?}\n", arg.line, arg.instruction));
                }
                for stage in &file.stages {
                    out.push_str(&format!("{}: FROM {} as {:?}\n", stage.line, stage.base, stage.name));
                    for i in &stage.instructions {
                        out.push_str(&format!("  {}: {:?}\n", i.line, i.instruction));
                    }
                }
                out
            }
            Err(e) => format!("{}: {e}\n", e.line),
        }
    }

    fn check(text: &str, expected: expect_test::Expect) {
        expected.assert_eq(&show(text));
    }

    #[test]
    fn every_instruction() {
        check(
            r#"ARG V=1 W
from debian:$V as Base
RUN a "b" && c
RUN ["a", "b c"]
RUN [not json]
copy --chown=1:2 --chmod=755 a "b c" /d/
COPY ["a b", "c"]
ADD --link x.tar /
ENV a=1 b="2 3" c=4\ 5
ENV old form  here
LABEL "x.y"="z"
WORKDIR /a b
USER u:g
EXPOSE 80 53/udp
VOLUME ["/a", "/b"]
VOLUME /c /d
CMD x y
ENTRYPOINT ["x"]
SHELL ["/bin/bash", "-c"]
STOPSIGNAL 9
HEALTHCHECK --interval=1m30s --retries=3 --start-interval=2s CMD ["a"]
HEALTHCHECK NONE
ONBUILD RUN x
ONBUILD RUN <<-E
	x
	E
RUN --mount=type=cache,target=/c --mount=from=o,target=/o --network=none --security=sandbox --device=d x
COPY --parents --exclude=*.a --exclude=b --chmod=u=rwX,go=rX a/./b c /d
ADD --checksum=sha256:0 --keep-git-dir --unpack=false http://x/y /
RUN python3 <<A && cat <<-"B"
a
A
	b
	B
MAINTAINER me <me@x>
FROM base
COPY --from=base <<F 3<<'G' /f
text
F
$g
G
"#,
            expect_test::expect![[r#"
                1: Arg([("V", Some("1")), ("W", None)])
                2: FROM debian:$V as Some("base")
                  3: Run(Run { command: Shell("a \"b\" && c"), heredocs: [], network: None, security: None, mounts: [], devices: [] })
                  4: Run(Run { command: Exec(["a", "b c"]), heredocs: [], network: None, security: None, mounts: [], devices: [] })
                  5: Run(Run { command: Shell("[not json]"), heredocs: [], network: None, security: None, mounts: [], devices: [] })
                  6: Copy(Copy { add: false, sources: ["a", "\"b", "c\""], heredocs: [], destination: "/d/", from: None, chown: Some("1:2"), chmod: Some("755"), link: false, parents: false, exclude: [], checksum: None, keep_git_dir: None, unpack: None })
                  7: Copy(Copy { add: false, sources: ["a b"], heredocs: [], destination: "c", from: None, chown: None, chmod: None, link: false, parents: false, exclude: [], checksum: None, keep_git_dir: None, unpack: None })
                  8: Copy(Copy { add: true, sources: ["x.tar"], heredocs: [], destination: "/", from: None, chown: None, chmod: None, link: true, parents: false, exclude: [], checksum: None, keep_git_dir: None, unpack: None })
                  9: Env([("a", "1"), ("b", "\"2 3\""), ("c", "4\\ 5")])
                  10: Env([("old", "form  here")])
                  11: Label([("\"x.y\"", "\"z\"")])
                  12: Workdir("/a b")
                  13: User("u:g")
                  14: Expose(["80", "53/udp"])
                  15: Volume(["/a", "/b"])
                  16: Volume(["/c", "/d"])
                  17: Cmd(Shell("x y"))
                  18: Entrypoint(Exec(["x"]))
                  19: Shell(["/bin/bash", "-c"])
                  20: StopSignal("9")
                  21: Healthcheck(Healthcheck { command: Some(Exec(["a"])), interval: 90000000000, timeout: 0, start_period: 0, start_interval: 2000000000, retries: 3 })
                  22: Healthcheck(Healthcheck { command: None, interval: 0, timeout: 0, start_period: 0, start_interval: 0, retries: 0 })
                  23: OnBuild("RUN x")
                  24: OnBuild("RUN <<-E\n\tx\nE")
                  27: Run(Run { command: Shell("x"), heredocs: [], network: Some(None), security: Some(Sandbox), mounts: [RunMount { text: "type=cache,target=/c", from: None }, RunMount { text: "from=o,target=/o", from: Some("o") }], devices: ["d"] })
                  28: Copy(Copy { add: false, sources: ["a/./b", "c"], heredocs: [], destination: "/d", from: None, chown: None, chmod: Some("u=rwX,go=rX"), link: false, parents: true, exclude: ["*.a", "b"], checksum: None, keep_git_dir: None, unpack: None })
                  29: Copy(Copy { add: true, sources: ["http://x/y"], heredocs: [], destination: "/", from: None, chown: None, chmod: None, link: false, parents: false, exclude: [], checksum: Some("sha256:0"), keep_git_dir: Some(true), unpack: Some(false) })
                  30: Run(Run { command: Shell("python3 <<A && cat <<-\"B\""), heredocs: [Heredoc { name: "A", expand: true, chomp: false, content: "a\n" }, Heredoc { name: "B", expand: false, chomp: true, content: "\tb\n" }], network: None, security: None, mounts: [], devices: [] })
                  35: Maintainer("me <me@x>")
                36: FROM base as None
                  37: Copy(Copy { add: false, sources: [], heredocs: [Heredoc { name: "F", expand: true, chomp: false, content: "text\n" }, Heredoc { name: "G", expand: false, chomp: false, content: "$g\n" }], destination: "/f", from: Some("base"), chown: None, chmod: None, link: false, parents: false, exclude: [], checksum: None, keep_git_dir: None, unpack: None })
            "#]],
        );
    }

    #[test]
    fn errors_name_the_line_and_the_thing() {
        for (text, expected) in [
            ("FROM a\n\nFORM b", "3: unknown instruction: FORM (did you mean FROM?)"),
            ("FROM a\nCPY a b", "2: unknown instruction: CPY (did you mean COPY?)"),
            ("FROM a\nINCLUDE", "2: unknown instruction: INCLUDE"),
            ("", "0: there are no instructions: the Dockerfile cannot be empty"),
            ("# only\n", "0: there are no instructions: the Dockerfile cannot be empty"),
            ("RUN x", "1: no build stage in current context: RUN before the first FROM"),
            ("FROM", "1: FROM requires either one or three arguments"),
            ("FROM a b", "1: FROM requires either one or three arguments"),
            ("FROM a AS 1x", "1: FROM: invalid name for a build stage `1x`"),
            ("FROM a\nCOPY x", "2: COPY requires at least two arguments"),
            ("FROM a\nCOPY --bad=1 x y", "2: unknown flag: COPY --bad"),
            ("FROM a\nCOPY --chwon=1 x y", "2: unknown flag: COPY --chwon (did you mean chown?)"),
            ("FROM a\nCOPY --chown=1 --chown=2 x y", "2: COPY: duplicate flag specified: --chown"),
            ("FROM a\nCOPY --chown x y", "2: COPY: missing a value on flag: --chown"),
            ("FROM a\nCOPY --link=maybe x y", "2: COPY: expecting `true` or `false` as the value of --link"),
            ("FROM a\nCMD --x y", "2: unknown flag: CMD --x"),
            ("FROM a\nCOPY x <<EOF\nEOF", "2: COPY cannot have a here-document as its destination"),
            ("FROM a\nCMD [\"a\", 1]", "2: CMD has a JSON list with something other than strings"),
            ("FROM a\nRUN --network=x y", "2: RUN: invalid network `x`"),
            ("FROM a\nRUN --security=x y", "2: RUN: invalid security mode `x`"),
            ("FROM a\nONBUILD COPY <<E /x\nabc", "2: unterminated heredoc `E`"),
            ("FROM a\nADD --from=x x y", "2: unknown flag: ADD --from"),
            ("FROM a\nADD --parents x y", "2: unknown flag: ADD --parents"),
            (
                "FROM a\nRUN --mount=type=cash,target=/x y",
                "2: invalid mount `type=cash,target=/x`: unsupported mount type `cash` (did you mean cache?)",
            ),
            ("FROM a\nENV x", "2: ENV must have two arguments"),
            ("FROM a\nENV x=1 y", "2: ENV: invalid argument without `=` `y`"),
            ("FROM a\nSHELL bash", "2: SHELL requires the arguments to be in JSON form"),
            ("FROM a\nRUN", "2: RUN requires at least one argument"),
            ("FROM a\nONBUILD FROM x", "2: ONBUILD: invalid trigger `FROM`"),
            ("FROM a\nONBUILD ENV x", "2: ENV must have two arguments"),
            ("FROM a\nHEALTHCHECK --interval=x CMD y", "2: HEALTHCHECK: invalid interval `x`"),
            ("# escape=x\nFROM a", "1: invalid parser directive: the escape character must be ` or \\"),
        ] {
            assert_eq!(show(text).trim_end(), expected, "{text}");
        }
    }

    proptest::proptest! {
        #[test]
        fn any_text_is_read_or_refused(text in "(FROM a\n)?(([A-Z]{0,4}|RUN|COPY|ENV|ARG|HEALTHCHECK) ?[-a-z<\"'$\\\\{}\\[\\]:=# \t`]{0,30}\n?){0,6}") {
            let _ = Dockerfile::parse(&text);
        }

        #[test]
        fn any_word_is_expanded_or_refused(text in "[-a-z<\"'$\\\\{}:=#%/+?*@0-9é ]{0,40}") {
            let _ = super::super::expand::words(&text, '\\', &|name| (name.len() > 1).then(|| name.to_owned()));
            let _ = super::super::expand::document(&text, &|_| None);
        }
    }
}
