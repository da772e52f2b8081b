//! Logical lines to instructions.

use super::expand::split;
use super::lines::{Logical, lines};
use super::{
    Command, Copy, Dockerfile, Healthcheck, Heredoc, Instruction, Located, MAX_DOCKERFILE_BYTES, MAX_STAGES,
    ParseError, Problem, Stage,
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

/// A line after its flags.
struct Parts<'a> {
    /// In upper case.
    name: String,
    flags: Vec<(String, String)>,
    rest: &'a str,
    escape: char,
}

enum Parsed {
    From { base: String, name: Option<String>, platform: Option<String> },
    Other(Instruction),
}

pub(super) fn parse(text: &str) -> Result<Dockerfile, ParseError> {
    if text.len() > MAX_DOCKERFILE_BYTES {
        let problem = Problem::Limit { what: "bytes", limit: MAX_DOCKERFILE_BYTES };
        return Err(ParseError { line: 0, problem });
    }
    let (escape, logical) = lines(text)?;
    let mut file = Dockerfile { escape, args: Vec::new(), stages: Vec::new() };
    for Logical { line, text, heredocs } in logical {
        let at = |problem| ParseError { line, problem };
        match instruction(&text, heredocs, escape).map_err(at)? {
            Parsed::From { base, name, platform } => {
                if let Some(name) =
                    name.as_ref().filter(|n| file.stages.iter().any(|s| s.name.as_ref() == Some(n)))
                {
                    return Err(at(Problem::DuplicateStage { name: name.clone() }));
                }
                if file.stages.len() == MAX_STAGES {
                    return Err(at(Problem::Limit { what: "stages", limit: MAX_STAGES }));
                }
                file.stages.push(Stage { line, text, base, name, platform, instructions: Vec::new() });
            }
            Parsed::Other(instruction) => match (file.stages.last_mut(), &instruction) {
                (Some(stage), _) => stage.instructions.push(Located { line, text, instruction }),
                (None, Instruction::Arg(_)) => file.args.push(Located { line, text, instruction }),
                (None, _) => {
                    let instruction = text.split_whitespace().next().unwrap_or("").to_ascii_uppercase();
                    return Err(at(Problem::NoStage { instruction }));
                }
            },
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

/// Reads one instruction that stands alone: a trigger of a base image, a `--change` of commit or import.
///
/// # Errors
/// If it can't be understood, or is `FROM`.
pub fn parse_instruction(text: &str) -> Result<Instruction, Problem> {
    match instruction(text.trim(), Vec::new(), '\\')? {
        Parsed::Other(instruction) => Ok(instruction),
        Parsed::From { .. } => Err(Problem::Unsupported { what: "FROM here".to_owned() }),
    }
}

fn instruction(text: &str, heredocs: Vec<Heredoc>, escape: char) -> Result<Parsed, Problem> {
    let parts = parts(text, escape)?;
    let name = parts.name.as_str();
    Ok(Parsed::Other(match name {
        "FROM" => return parts.from(),
        "RUN" => parts.run(heredocs)?,
        "COPY" | "ADD" => parts.copy(heredocs)?,
        "ARG" => Instruction::Arg(parts.args()?),
        "ENV" => Instruction::Env(parts.pairs()?),
        "LABEL" => Instruction::Label(parts.pairs()?),
        "WORKDIR" => Instruction::Workdir(parts.whole()?),
        "USER" => Instruction::User(parts.whole()?),
        "STOPSIGNAL" => Instruction::StopSignal(parts.whole()?),
        "MAINTAINER" => Instruction::Maintainer(parts.whole()?),
        "EXPOSE" => Instruction::Expose(parts.words()?),
        "VOLUME" => Instruction::Volume(parts.json_or_words()?),
        "CMD" => Instruction::Cmd(parts.command()?),
        "ENTRYPOINT" => Instruction::Entrypoint(parts.command()?),
        "SHELL" => parts.shell()?,
        "HEALTHCHECK" => Instruction::Healthcheck(parts.healthcheck()?),
        "ONBUILD" => parts.onbuild(heredocs)?,
        _ => {
            let name = text.split_whitespace().next().unwrap_or("").chars().take(50).collect::<String>();
            return Err(Problem::UnknownInstruction {
                suggestion: suggest(&name.to_ascii_uppercase()),
                name,
            });
        }
    }))
}

fn parts(text: &str, escape: char) -> Result<Parts<'_>, Problem> {
    let (name, mut rest) = text.split_once(char::is_whitespace).unwrap_or((text, ""));
    let name = name.to_ascii_uppercase();
    rest = rest.trim();
    let mut flags = Vec::new();
    // Healthcheck's own command may have options, too; those come after CMD. ENV and the like have none.
    let has_flags = matches!(name.as_str(), "FROM" | "RUN" | "COPY" | "ADD" | "HEALTHCHECK" | "ONBUILD");
    while has_flags && rest.starts_with("--") {
        let end = flag_end(rest, escape);
        let flag = split(&rest[..end], escape).into_iter().next().unwrap_or_default();
        rest = rest[end..].trim_start();
        if flag == "--" {
            break;
        }
        let (key, value) = flag[2..].split_once('=').unwrap_or((&flag[2..], ""));
        flags.push((key.to_owned(), unquote(value)));
    }
    Ok(Parts { name, flags, rest, escape })
}

/// Where the first word ends, quotes respected.
fn flag_end(text: &str, escape: char) -> usize {
    let mut quote = None;
    let mut chars = text.char_indices();
    while let Some((at, c)) = chars.next() {
        match quote {
            None if c.is_whitespace() => return at,
            None if c == '"' || c == '\'' => quote = Some(c),
            Some(q) if q == c => quote = None,
            _ if c == escape => {
                chars.next();
            }
            _ => {}
        }
    }
    text.len()
}

fn unquote(text: &str) -> String {
    text.chars().filter(|c| !matches!(c, '"' | '\'')).collect()
}

impl Parts<'_> {
    fn wrong(&self, requires: &'static str) -> Problem {
        Problem::Arguments { instruction: self.name.clone(), requires }
    }

    fn invalid(&self, what: &'static str, value: &str) -> Problem {
        Problem::Invalid { instruction: self.name.clone(), what, value: value.to_owned() }
    }

    /// The flags, each at most once; others are refused, those that exist elsewhere as not supported.
    fn flags<const N: usize>(
        &self,
        known: [&str; N],
        elsewhere: &[&str],
    ) -> Result<[Option<String>; N], Problem> {
        let mut found = [const { None }; N];
        for (key, value) in &self.flags {
            if elsewhere.contains(&key.as_str()) {
                return Err(Problem::Unsupported { what: format!("{} --{key}", self.name) });
            }
            match known.iter().position(|k| k == key) {
                Some(i) if found[i].is_none() => found[i] = Some(value.clone()),
                Some(_) => return Err(self.invalid("repeated flag", key)),
                None => {
                    return Err(Problem::UnknownFlag {
                        instruction: self.name.clone(),
                        flag: format!("--{key}"),
                    });
                }
            }
        }
        Ok(found)
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

    fn json(&self, text: &str) -> Option<Vec<String>> {
        if !text.starts_with('[') {
            return None;
        }
        serde_json::from_str(text).ok()
    }

    fn json_or_words(&self) -> Result<Vec<String>, Problem> {
        match self.json(self.rest) {
            Some(list) if list.is_empty() => Err(self.wrong("requires at least one argument")),
            Some(list) => Ok(list),
            None => self.words(),
        }
    }

    fn command(&self) -> Result<Command, Problem> {
        Ok(match self.json(self.rest) {
            Some(list) => Command::Exec(list),
            None => Command::Shell(self.rest.to_owned()),
        })
    }

    fn from(&self) -> Result<Parsed, Problem> {
        let [platform] = self.flags(["platform"], &[])?;
        let words = self.words().map_err(|_| self.wrong("requires either one or three arguments"))?;
        let (base, name) = match words.as_slice() {
            [base] => (base, None),
            [base, r#as, name] if r#as.eq_ignore_ascii_case("as") => (base, Some(name.to_lowercase())),
            _ => return Err(self.wrong("requires either one or three arguments")),
        };
        let letter = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.');
        if let Some(name) = &name {
            if !name.starts_with(|c: char| c.is_ascii_alphabetic()) || !name.chars().all(letter) {
                return Err(self.invalid("name for a build stage", name));
            }
            if name == "scratch" {
                return Err(self.invalid("name for a build stage", name));
            }
        }
        Ok(Parsed::From { base: base.clone(), name, platform })
    }

    fn run(&self, heredocs: Vec<Heredoc>) -> Result<Instruction, Problem> {
        let [network] = self.flags(["network"], &["mount", "security"])?;
        if let Some(network) = network.as_ref().filter(|n| !matches!(n.as_str(), "default" | "none" | "host"))
        {
            return Err(self.invalid("network", network));
        }
        if self.rest.is_empty() {
            return Err(self.wrong("requires at least one argument"));
        }
        let command = self.command()?;
        if command == Command::Exec(Vec::new()) {
            return Err(self.wrong("requires at least one argument"));
        }
        Ok(Instruction::Run { command, heredocs, network })
    }

    fn copy(&self, heredocs: Vec<Heredoc>) -> Result<Instruction, Problem> {
        let add = self.name == "ADD";
        let elsewhere: &[&str] =
            if add { &["checksum", "keep-git-dir", "unpack", "exclude"] } else { &["parents", "exclude"] };
        let [from, chown, chmod, link] = self.flags(["from", "chown", "chmod", "link"], elsewhere)?;
        if add && from.is_some() {
            return Err(Problem::UnknownFlag { instruction: self.name.clone(), flag: "--from".to_owned() });
        }
        if let Some(value) = link.filter(|l| !matches!(l.as_str(), "" | "true" | "false")) {
            return Err(self.invalid("value of --link", &value));
        }
        // Names with blanks need the JSON form: quotes do not hold words together here.
        let mut words = match self.json(self.rest) {
            Some(list) => list,
            None => self.rest.split_whitespace().map(str::to_owned).collect(),
        };
        if words.len() < 2 {
            return Err(self.wrong("requires at least two arguments"));
        }
        // At least two, as of the lines above.
        let destination = words.pop().unwrap_or_default();
        words.retain(|w| !is_heredoc_word(w));
        if words.is_empty() && heredocs.is_empty() {
            return Err(self.wrong("requires at least two arguments"));
        }
        Ok(Instruction::Copy(Copy { add, sources: words, heredocs, destination, from, chown, chmod }))
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
                return Err(self.invalid("name", &word));
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
                .ok_or_else(|| self.wrong("requires a name and a value"))?;
            return Ok(vec![(key.to_owned(), value.trim_start().to_owned())]);
        }
        let pair = |word: &String| {
            let (key, value) =
                word.split_once('=').ok_or_else(|| self.invalid("argument without `=`", word))?;
            if key.is_empty() {
                Err(self.invalid("name", word))
            } else {
                Ok((key.to_owned(), value.to_owned()))
            }
        };
        words.iter().map(pair).collect()
    }

    fn shell(&self) -> Result<Instruction, Problem> {
        match self.json(self.rest) {
            Some(list) if !list.is_empty() => Ok(Instruction::Shell(list)),
            _ => Err(self.wrong("requires the arguments to be in JSON form")),
        }
    }

    fn onbuild(&self, heredocs: Vec<Heredoc>) -> Result<Instruction, Problem> {
        let trigger = self.whole()?;
        let first = trigger.split_whitespace().next().unwrap_or("").to_ascii_uppercase();
        if matches!(first.as_str(), "ONBUILD" | "FROM" | "MAINTAINER") {
            return Err(self.invalid("trigger", &first));
        }
        if !heredocs.is_empty() {
            return Err(Problem::Unsupported { what: "a here-document in ONBUILD".to_owned() });
        }
        // A trigger that could never run is told here, not in the build that uses the image.
        instruction(&trigger, Vec::new(), self.escape)?;
        Ok(Instruction::OnBuild(trigger))
    }

    fn healthcheck(&self) -> Result<Healthcheck, Problem> {
        let names = ["interval", "timeout", "start-period", "start-interval", "retries"];
        let [interval, timeout, start_period, start_interval, retries] = self.flags(names, &[])?;
        let (kind, rest) = self.rest.split_once(char::is_whitespace).unwrap_or((self.rest, ""));
        match kind.to_ascii_uppercase().as_str() {
            "NONE" if rest.trim().is_empty() => return Ok(Healthcheck::default()),
            "NONE" => return Err(self.wrong("NONE takes no arguments")),
            "CMD" if rest.trim().is_empty() => return Err(self.wrong("CMD requires a command")),
            "CMD" => {}
            "" => return Err(self.wrong("requires at least one argument")),
            _ => return Err(self.invalid("type", kind)),
        }
        let time = |what, text: Option<String>| match text {
            Some(text) => match duration(&text).filter(|d| *d == 0 || *d >= 1_000_000) {
                Some(nanos) => Ok(nanos),
                None => Err(self.invalid(what, &text)),
            },
            None => Ok(0),
        };
        let retries = match retries {
            Some(text) => text
                .parse()
                .ok()
                .filter(|n: &i64| *n >= 0)
                .ok_or_else(|| self.invalid("number of retries", &text))?,
            None => 0,
        };
        let rest = rest.trim();
        let command = match self.json(rest) {
            Some(list) => Command::Exec(list),
            None => Command::Shell(rest.to_owned()),
        };
        Ok(Healthcheck {
            command: Some(command),
            interval: time("interval", interval)?,
            timeout: time("timeout", timeout)?,
            start_period: time("start period", start_period)?,
            start_interval: time("start interval", start_interval)?,
            retries,
        })
    }
}

fn is_heredoc_word(word: &str) -> bool {
    word.strip_prefix("<<").is_some_and(|w| !w.is_empty() && !w.starts_with('<'))
}

/// A time as Go writes it: `1h30m`, `1.5s`, `500ms`.
fn duration(text: &str) -> Option<i64> {
    if text == "0" {
        return Some(0);
    }
    let mut rest = text;
    let mut nanos = 0f64;
    while !rest.is_empty() {
        let end = rest.find(|c: char| !(c.is_ascii_digit() || c == '.'))?;
        let value: f64 = rest[..end].parse().ok()?;
        rest = &rest[end..];
        let units =
            [("ns", 1.0), ("us", 1e3), ("µs", 1e3), ("ms", 1e6), ("h", 3.6e12), ("m", 6e10), ("s", 1e9)];
        let (unit, factor) = units.into_iter().find(|(unit, _)| rest.starts_with(unit))?;
        nanos += value * factor;
        rest = &rest[unit.len()..];
    }
    // Far below the limit: 292 years.
    (!text.is_empty() && nanos < 9e18).then_some(nanos.round() as i64)
}

/// The instruction whose name is nearest, if it is near.
fn suggest(name: &str) -> Option<&'static str> {
    let near = INSTRUCTIONS.iter().map(|known| (distance(name, known), *known)).min()?;
    (near.0 <= 2 && near.0 * 2 <= name.len()).then_some(near.1)
}

/// How many letters differ (Levenshtein, a swap of neighbours counts once).
fn distance(a: &str, b: &str) -> usize {
    let (a, b): (Vec<char>, Vec<char>) = (a.chars().collect(), b.chars().collect());
    let mut rows: Vec<Vec<usize>> = vec![(0..=b.len()).collect()];
    for i in 1..=a.len() {
        let mut row = vec![i];
        for j in 1..=b.len() {
            let cost = usize::from(a[i - 1] != b[j - 1]);
            let mut best = (rows[i - 1][j] + 1).min(row[j - 1] + 1).min(rows[i - 1][j - 1] + cost);
            if i > 1 && j > 1 && a[i - 1] == b[j - 2] && a[i - 2] == b[j - 1] {
                best = best.min(rows[i - 2][j - 2] + 1);
            }
            row.push(best);
        }
        rows.push(row);
    }
    rows[a.len()][b.len()]
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
HEALTHCHECK --interval=1m30s --retries=3 CMD ["a"]
HEALTHCHECK NONE
ONBUILD RUN x
MAINTAINER me <me@x>
FROM base
COPY --from=base <<F /f
text
F
"#,
            expect_test::expect![[r#"
                1: Arg([("V", Some("1")), ("W", None)])
                2: FROM debian:$V as Some("base")
                  3: Run { command: Shell("a \"b\" && c"), heredocs: [], network: None }
                  4: Run { command: Exec(["a", "b c"]), heredocs: [], network: None }
                  5: Run { command: Shell("[not json]"), heredocs: [], network: None }
                  6: Copy(Copy { add: false, sources: ["a", "\"b", "c\""], heredocs: [], destination: "/d/", from: None, chown: Some("1:2"), chmod: Some("755") })
                  7: Copy(Copy { add: false, sources: ["a b"], heredocs: [], destination: "c", from: None, chown: None, chmod: None })
                  8: Copy(Copy { add: true, sources: ["x.tar"], heredocs: [], destination: "/", from: None, chown: None, chmod: None })
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
                  21: Healthcheck(Healthcheck { command: Some(Exec(["a"])), interval: 90000000000, timeout: 0, start_period: 0, start_interval: 0, retries: 3 })
                  22: Healthcheck(Healthcheck { command: None, interval: 0, timeout: 0, start_period: 0, start_interval: 0, retries: 0 })
                  23: OnBuild("RUN x")
                  24: Maintainer("me <me@x>")
                25: FROM base as None
                  26: Copy(Copy { add: false, sources: [], heredocs: [Heredoc { name: "F", expand: true, content: "text\n" }], destination: "/f", from: Some("base"), chown: None, chmod: None })
            "#]],
        );
    }

    #[test]
    fn errors_name_the_line_and_the_thing() {
        for (text, expected) in [
            ("FROM a\n\nFORM b", "3: unknown instruction: FORM (did you mean FROM?)"),
            ("FROM a\nCPY a b", "2: unknown instruction: CPY (did you mean COPY?)"),
            ("FROM a\nFOO", "2: unknown instruction: FOO"),
            ("", "0: there are no instructions: the Dockerfile cannot be empty"),
            ("# only\n", "0: there are no instructions: the Dockerfile cannot be empty"),
            ("RUN x", "1: no build stage in current context: RUN before the first FROM"),
            ("FROM", "1: FROM requires either one or three arguments"),
            ("FROM a b", "1: FROM requires either one or three arguments"),
            ("FROM a AS 1x", "1: FROM: invalid name for a build stage `1x`"),
            ("FROM a as x\nFROM b as X", "2: duplicate stage name `x`"),
            ("FROM a\nCOPY x", "2: COPY requires at least two arguments"),
            ("FROM a\nCOPY --bad=1 x y", "2: unknown flag: COPY --bad"),
            ("FROM a\nADD --from=x x y", "2: unknown flag: ADD --from"),
            ("FROM a\nCOPY --parents x y", "2: COPY --parents is not supported yet"),
            ("FROM a\nRUN --mount=type=cache,target=/x y", "2: RUN --mount is not supported yet"),
            ("FROM a\nENV x", "2: ENV requires a name and a value"),
            ("FROM a\nENV x=1 y", "2: ENV: invalid argument without `=` `y`"),
            ("FROM a\nSHELL bash", "2: SHELL requires the arguments to be in JSON form"),
            ("FROM a\nRUN", "2: RUN requires at least one argument"),
            ("FROM a\nONBUILD FROM x", "2: ONBUILD: invalid trigger `FROM`"),
            ("FROM a\nONBUILD RN x", "2: unknown instruction: RN (did you mean RUN?)"),
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
            let _ = super::super::expand::document(&text, '`', &|_| None);
        }
    }
}
