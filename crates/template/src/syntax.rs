//! Text to tree.

use crate::{TemplateError, Value};

/// How deep parentheses and blocks may be.
const MAX_DEPTH: usize = 100;

#[derive(Debug)]
pub(crate) enum Node {
    Text(String),
    Print(usize, Pipeline),
    /// `if`, `with`.
    Branch {
        with: bool,
        line: usize,
        condition: Pipeline,
        then: Vec<Node>,
        otherwise: Vec<Node>,
    },
    Range {
        line: usize,
        over: Pipeline,
        body: Vec<Node>,
        otherwise: Vec<Node>,
    },
    Break,
    Continue,
}

/// Commands that hand their results on, and the variables that get the last.
#[derive(Debug)]
pub(crate) struct Pipeline {
    pub(crate) variables: Vec<String>,
    /// `:=` makes variables, `=` changes them.
    pub(crate) makes: bool,
    pub(crate) commands: Vec<Vec<Operand>>,
}

#[derive(Debug)]
pub(crate) enum Operand {
    Constant(Value),
    Function(String),
    /// A start and the fields to follow.
    Path(Start, Vec<String>),
}

#[derive(Debug)]
pub(crate) enum Start {
    Dot,
    Variable(String),
    Group(Box<Pipeline>),
}

impl Node {
    /// Whether a field of this name is asked for.
    pub(crate) fn names(&self, field: &str) -> bool {
        let any = |nodes: &[Node]| nodes.iter().any(|node| node.names(field));
        match self {
            Node::Text(_) | Node::Break | Node::Continue => false,
            Node::Print(_, pipeline) => pipeline.names(field),
            Node::Branch { condition: pipeline, then: body, otherwise, .. }
            | Node::Range { over: pipeline, body, otherwise, .. } => {
                pipeline.names(field) || any(body) || any(otherwise)
            }
        }
    }
}

impl Pipeline {
    fn names(&self, field: &str) -> bool {
        self.commands.iter().flatten().any(|operand| match operand {
            Operand::Path(start, fields) => {
                fields.iter().any(|f| f == field) || matches!(start, Start::Group(p) if p.names(field))
            }
            _ => false,
        })
    }
}

pub(crate) fn parse(text: &str) -> Result<Vec<Node>, TemplateError> {
    let mut parser = Parser { pieces: pieces(text)?, at: 0, depth: 0, ranges: 0 };
    let (nodes, ended) = parser.nodes()?;
    match ended {
        Ending::Text => Ok(nodes),
        Ending::End(line) => Err(TemplateError { line, what: "unexpected {{end}}".into() }),
        Ending::Else(line, _) => Err(TemplateError { line, what: "unexpected {{else}}".into() }),
    }
}

/// What lies between braces, and what does not.
enum Piece {
    Text(String),
    Action(usize, Vec<Token>),
}

/// Cuts text at its braces; `{{- ` and ` -}}` take the spaces beside them away.
fn pieces(text: &str) -> Result<Vec<Piece>, TemplateError> {
    let (mut pieces, mut rest, mut line, mut trim) = (Vec::new(), text, 1, false);
    loop {
        let (before, after) = match rest.split_once("{{") {
            Some((before, after)) => (before, Some(after)),
            None => (rest, None),
        };
        let mut shown = if trim { before.trim_start() } else { before };
        line += before.matches('\n').count();
        let Some(mut inside) = after else {
            pieces.push(Piece::Text(shown.to_owned()));
            return Ok(pieces);
        };
        if let Some(trimmed) = inside.strip_prefix('-').filter(|t| t.starts_with(char::is_whitespace)) {
            shown = shown.trim_end();
            inside = trimmed;
        }
        pieces.push(Piece::Text(shown.to_owned()));
        if let Some(comment) = inside.trim_start().strip_prefix("/*") {
            let Some((said, after)) = comment.split_once("*/") else {
                return Err(TemplateError { line, what: "unclosed comment".into() });
            };
            line += said.matches('\n').count();
            let after = after.trim_start();
            trim = after.starts_with("-}}");
            let Some(after) = after.trim_start_matches('-').strip_prefix("}}") else {
                return Err(TemplateError { line, what: "comment ends before closing delimiter".into() });
            };
            rest = after;
            continue;
        }
        let (tokens, after, trims) = tokens(inside, &mut line)?;
        pieces.push(Piece::Action(line, tokens));
        (rest, trim) = (after, trims);
    }
}

#[derive(Debug, Clone, PartialEq)]
enum Token {
    Word(String),
    /// `.name`, right behind what is before it.
    Field(String),
    /// `.` alone.
    Dot,
    /// `$` and `$name`.
    Variable(String),
    Constant(Value),
    Pipe,
    Open,
    Close,
    Declare,
    Assign,
    Comma,
    /// Spaces: they part arguments.
    Space,
}

/// The tokens up to the closing braces, what is behind those, and whether its spaces are to go.
fn tokens<'t>(text: &'t str, line: &mut usize) -> Result<(Vec<Token>, &'t str, bool), TemplateError> {
    let mut tokens = Vec::new();
    let mut rest = text;
    let error = |line: usize, what: String| TemplateError { line, what };
    let name = |t: &str| t.find(|c: char| !c.is_alphanumeric() && c != '_').unwrap_or(t.len());
    loop {
        let Some(first) = rest.chars().next() else {
            return Err(error(*line, "unclosed action".into()));
        };
        if let Some(after) = rest.strip_prefix("}}") {
            return Ok((tokens, after, false));
        }
        let spaces = rest.len() - rest.trim_start().len();
        if spaces > 0 {
            if let Some(after) = rest[spaces..].strip_prefix("-}}") {
                return Ok((tokens, after, true));
            }
            *line += rest[..spaces].matches('\n').count();
            rest = &rest[spaces..];
            tokens.push(Token::Space);
            continue;
        }
        let (token, length) = match first {
            '|' => (Token::Pipe, 1),
            '(' => (Token::Open, 1),
            ')' => (Token::Close, 1),
            ',' => (Token::Comma, 1),
            '=' => (Token::Assign, 1),
            ':' if rest.starts_with(":=") => (Token::Declare, 2),
            '"' => {
                let (value, length) =
                    quoted(rest).ok_or_else(|| error(*line, "unterminated quoted string".into()))?;
                (Token::Constant(Value::Text(value)), length)
            }
            '`' => {
                let inside = rest[1..].split_once('`').map(|(inside, _)| inside);
                let inside = inside.ok_or_else(|| error(*line, "unterminated raw quoted string".into()))?;
                (Token::Constant(inside.into()), inside.len() + 2)
            }
            '\'' => {
                let character = rest[1..].chars().next().filter(|c| !matches!(c, '\'' | '\\'));
                match character {
                    Some(c) if rest[1 + c.len_utf8()..].starts_with('\'') => {
                        (Token::Constant(Value::Int(i128::from(u32::from(c)))), c.len_utf8() + 2)
                    }
                    _ => return Err(error(*line, "malformed character constant".into())),
                }
            }
            '.' if rest[1..].starts_with(|c: char| c.is_alphabetic() || c == '_') => {
                let length = name(&rest[1..]);
                (Token::Field(rest[1..=length].to_owned()), length + 1)
            }
            '.' if !rest[1..].starts_with(|c: char| c.is_ascii_digit()) => (Token::Dot, 1),
            '$' => {
                let length = name(&rest[1..]);
                (Token::Variable(rest[1..=length].to_owned()), length + 1)
            }
            c if c.is_ascii_digit() || matches!(c, '+' | '-' | '.') => {
                let length = rest[1..]
                    .find(|c: char| !c.is_ascii_alphanumeric() && !matches!(c, '.' | '_'))
                    .map_or(rest.len(), |l| l + 1);
                let value = number(&rest[..length])
                    .ok_or_else(|| error(*line, format!("bad number syntax: {:?}", &rest[..length])))?;
                (Token::Constant(value), length)
            }
            c if c.is_alphabetic() || c == '_' => {
                let length = name(rest);
                (Token::Word(rest[..length].to_owned()), length)
            }
            c => return Err(error(*line, format!("unexpected {c:?} in command"))),
        };
        tokens.push(token);
        rest = &rest[length..];
    }
}

fn number(text: &str) -> Option<Value> {
    let plain = text.replace('_', "");
    let (sign, digits) = match plain.strip_prefix('-') {
        Some(digits) => (-1, digits),
        None => (1, plain.strip_prefix('+').unwrap_or(&plain)),
    };
    let based = |prefix: &str, base| digits.strip_prefix(prefix).map(|d| i128::from_str_radix(d, base).ok());
    if let Some(number) = based("0x", 16).or_else(|| based("0b", 2)).or_else(|| based("0o", 8)) {
        return number.map(|n| Value::Int(sign * n));
    }
    digits.parse().map(|n: i128| Value::Int(sign * n)).ok().or_else(|| plain.parse().ok().map(Value::Float))
}

/// What Go's quotes hold, and how long they are with what they hold.
fn quoted(text: &str) -> Option<(String, usize)> {
    let mut out = String::new();
    let mut characters = text.char_indices().skip(1);
    while let Some((at, c)) = characters.next() {
        match c {
            '"' => return Some((out, at + 1)),
            '\n' => return None,
            '\\' => match characters.next()?.1 {
                'n' => out.push('\n'),
                't' => out.push('\t'),
                'r' => out.push('\r'),
                'a' => out.push('\x07'),
                'b' => out.push('\x08'),
                'f' => out.push('\x0c'),
                'v' => out.push('\x0b'),
                kind @ ('x' | 'u' | 'U') => {
                    let length = match kind {
                        'x' => 2,
                        'u' => 4,
                        _ => 8,
                    };
                    let digits: String = characters.by_ref().take(length).map(|(_, c)| c).collect();
                    out.push(char::from_u32(u32::from_str_radix(&digits, 16).ok()?)?);
                }
                c @ ('\\' | '"' | '\'') => out.push(c),
                _ => return None,
            },
            c => out.push(c),
        }
    }
    None
}

/// What ended a run of nodes.
enum Ending {
    Text,
    End(usize),
    /// With what follows the word: `if …`, `with …`, or nothing.
    Else(usize, Vec<Token>),
}

struct Parser {
    pieces: Vec<Piece>,
    at: usize,
    depth: usize,
    ranges: usize,
}

impl Parser {
    fn nodes(&mut self) -> Result<(Vec<Node>, Ending), TemplateError> {
        let mut nodes = Vec::new();
        loop {
            let Some(piece) = self.pieces.get_mut(self.at) else { return Ok((nodes, Ending::Text)) };
            self.at += 1;
            let (line, tokens) = match piece {
                Piece::Text(text) => {
                    if !text.is_empty() {
                        nodes.push(Node::Text(std::mem::take(text)));
                    }
                    continue;
                }
                Piece::Action(line, tokens) => (*line, std::mem::take(tokens)),
            };
            let error = |what: &str| TemplateError { line, what: what.to_owned() };
            let start = tokens.iter().position(|t| *t != Token::Space).unwrap_or(tokens.len());
            let rest = tokens.get(start + 1..).unwrap_or_default();
            let word = match tokens.get(start) {
                Some(Token::Word(word)) => word.as_str(),
                Some(_) => "",
                None => return Err(error("missing value for command")),
            };
            match word {
                "end" => return Ok((nodes, Ending::End(line))),
                "else" => return Ok((nodes, Ending::Else(line, rest.to_vec()))),
                "if" | "with" => nodes.push(self.branch(word == "with", line, rest)?),
                "range" => {
                    let over = pipeline(line, rest, true)?;
                    self.ranges += 1;
                    let (body, ended) = self.block(line)?;
                    self.ranges -= 1;
                    let otherwise = match ended {
                        Ending::Else(..) => match self.block(line)? {
                            (nodes, Ending::End(_)) => nodes,
                            _ => return Err(error("expected end; found {{else}}")),
                        },
                        _ => Vec::new(),
                    };
                    nodes.push(Node::Range { line, over, body, otherwise });
                }
                "break" | "continue" if self.ranges == 0 => {
                    return Err(error(&format!("{{{{{word}}}}} outside {{{{range}}}}")));
                }
                "break" => nodes.push(Node::Break),
                "continue" => nodes.push(Node::Continue),
                "define" | "template" | "block" => {
                    return Err(error(&format!("{{{{{word}}}}} is not supported")));
                }
                _ => nodes.push(Node::Print(line, pipeline(line, &tokens, false)?)),
            }
        }
    }

    /// The nodes of a block, up to its `end` or `else`.
    fn block(&mut self, line: usize) -> Result<(Vec<Node>, Ending), TemplateError> {
        self.depth += 1;
        if self.depth > MAX_DEPTH {
            return Err(TemplateError { line, what: "blocks are nested too deep".into() });
        }
        let (nodes, ended) = self.nodes()?;
        self.depth -= 1;
        match ended {
            Ending::Text => Err(TemplateError { line, what: "unexpected EOF".into() }),
            ended => Ok((nodes, ended)),
        }
    }

    fn branch(&mut self, with: bool, line: usize, tokens: &[Token]) -> Result<Node, TemplateError> {
        let condition = pipeline(line, tokens, false)?;
        let (then, ended) = self.block(line)?;
        let otherwise = match ended {
            Ending::Else(line, tokens) => {
                let start = tokens.iter().position(|t| *t != Token::Space);
                match start.and_then(|s| Some((tokens.get(s)?, tokens.get(s + 1..)?))) {
                    // `{{else if …}}` shares the `end` of what it belongs to.
                    Some((Token::Word(word), rest)) if word == "if" || word == "with" => {
                        vec![self.branch(word == "with", line, rest)?]
                    }
                    Some(_) => {
                        return Err(TemplateError { line, what: "unexpected words after else".into() });
                    }
                    None => match self.block(line)? {
                        (nodes, Ending::End(_)) => nodes,
                        _ => return Err(TemplateError { line, what: "expected end; found {{else}}".into() }),
                    },
                }
            }
            _ => Vec::new(),
        };
        Ok(Node::Branch { with, line, condition, then, otherwise })
    }
}

fn pipeline(line: usize, tokens: &[Token], range: bool) -> Result<Pipeline, TemplateError> {
    let mut reader = Reader { tokens, at: 0, line, depth: 0 };
    let pipeline = reader.pipeline(range)?;
    match reader.tokens.get(reader.at) {
        None => Ok(pipeline),
        Some(Token::Close) => Err(reader.error("unexpected right paren")),
        Some(token) => Err(reader.error(&format!("unexpected {token:?} in command"))),
    }
}

struct Reader<'t> {
    tokens: &'t [Token],
    at: usize,
    line: usize,
    depth: usize,
}

impl Reader<'_> {
    fn error(&self, what: &str) -> TemplateError {
        TemplateError { line: self.line, what: what.to_owned() }
    }

    fn skip_spaces(&mut self) -> bool {
        let before = self.at;
        while self.tokens.get(self.at) == Some(&Token::Space) {
            self.at += 1;
        }
        self.at > before
    }

    /// `$a :=`, `$a, $b :=`, `$a =`, if that is what comes.
    fn declaration(&mut self, range: bool) -> (Vec<String>, bool) {
        let before = self.at;
        let mut variables = Vec::new();
        loop {
            self.skip_spaces();
            let Some(Token::Variable(name)) = self.tokens.get(self.at) else { break };
            variables.push(name.clone());
            self.at += 1;
            self.skip_spaces();
            match self.tokens.get(self.at) {
                Some(Token::Comma) if range && variables.len() < 2 => self.at += 1,
                Some(token @ (Token::Declare | Token::Assign)) => {
                    self.at += 1;
                    return (variables, *token == Token::Declare);
                }
                _ => break,
            }
        }
        self.at = before;
        (Vec::new(), false)
    }

    fn pipeline(&mut self, range: bool) -> Result<Pipeline, TemplateError> {
        let (variables, makes) = self.declaration(range);
        let mut commands = Vec::new();
        loop {
            commands.push(self.command()?);
            if self.tokens.get(self.at) != Some(&Token::Pipe) {
                break;
            }
            self.at += 1;
        }
        // A constant takes no argument, so nothing can be piped into it.
        if commands.iter().skip(1).any(|c| matches!(c.first(), Some(Operand::Constant(_)))) {
            return Err(self.error("non executable command in pipeline"));
        }
        Ok(Pipeline { variables, makes, commands })
    }

    fn command(&mut self) -> Result<Vec<Operand>, TemplateError> {
        let mut operands = Vec::new();
        let mut parted = true;
        loop {
            parted |= self.skip_spaces();
            let Some(token) = self.tokens.get(self.at) else { break };
            if matches!(token, Token::Pipe | Token::Close) {
                break;
            }
            if !parted {
                return Err(self.error(&format!("unexpected {token:?} in command")));
            }
            parted = false;
            self.at += 1;
            let start = match token {
                Token::Constant(value) => {
                    operands.push(Operand::Constant(value.clone()));
                    continue;
                }
                Token::Word(word) => {
                    operands.push(match word.as_str() {
                        "true" => Operand::Constant(Value::Bool(true)),
                        "false" => Operand::Constant(Value::Bool(false)),
                        "nil" => Operand::Constant(Value::Nil),
                        name if crate::functions::exists(name) => Operand::Function(name.to_owned()),
                        name => return Err(self.error(&format!("function {name:?} not defined"))),
                    });
                    continue;
                }
                Token::Dot => Operand::Path(Start::Dot, Vec::new()),
                Token::Field(name) => Operand::Path(Start::Dot, vec![name.clone()]),
                Token::Variable(name) => Operand::Path(Start::Variable(name.clone()), Vec::new()),
                Token::Open => {
                    self.depth += 1;
                    if self.depth > MAX_DEPTH {
                        return Err(self.error("parentheses are nested too deep"));
                    }
                    let inside = self.pipeline(false)?;
                    self.depth -= 1;
                    if self.tokens.get(self.at) != Some(&Token::Close) {
                        return Err(self.error("unclosed left paren"));
                    }
                    self.at += 1;
                    Operand::Path(Start::Group(Box::new(inside)), Vec::new())
                }
                token => return Err(self.error(&format!("unexpected {token:?} in command"))),
            };
            let Operand::Path(start, mut fields) = start else { continue };
            while let Some(Token::Field(name)) = self.tokens.get(self.at) {
                fields.push(name.clone());
                self.at += 1;
            }
            operands.push(Operand::Path(start, fields));
        }
        if operands.is_empty() { Err(self.error("missing value for command")) } else { Ok(operands) }
    }
}
