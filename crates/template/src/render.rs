//! Tree and value to text.

use crate::functions;
use crate::syntax::{Node, Operand, Pipeline, Start};
use crate::{TemplateError, Value};

/// How much text a template may give: a `range` over a list in a list soon gives more than anyone reads.
const MAX_TEXT_BYTES: usize = 64 << 20;

pub(crate) fn render(nodes: &[Node], value: &Value, heading: bool) -> Result<String, TemplateError> {
    let variables = vec![(String::new(), value.clone())];
    let mut state = State { out: String::new(), variables, line: 1, heading };
    state.walk(nodes, value)?;
    Ok(state.out)
}

struct State {
    out: String,
    /// The last of a name counts; `$` is the one without a name.
    variables: Vec<(String, Value)>,
    line: usize,
    /// Headings are to stay as they are, whatever is done to what is below them.
    heading: bool,
}

/// How a run of nodes ended.
#[derive(PartialEq)]
enum Flow {
    On,
    Break,
    Continue,
}

impl State {
    fn error(&self, what: impl Into<String>) -> TemplateError {
        TemplateError { line: self.line, what: what.into() }
    }

    fn walk(&mut self, nodes: &[Node], dot: &Value) -> Result<Flow, TemplateError> {
        for node in nodes {
            match node {
                Node::Text(text) => self.out += text,
                Node::Print(line, pipeline) => {
                    self.line = *line;
                    let value = self.pipeline(pipeline, dot)?;
                    if pipeline.variables.is_empty() {
                        self.out += &value.print();
                    }
                }
                Node::Branch { with, line, condition, then, otherwise } => {
                    self.line = *line;
                    let scope = self.variables.len();
                    let value = self.pipeline(condition, dot)?;
                    let flow = match (value.is_true(), with) {
                        (true, true) => self.walk(then, &value)?,
                        (true, false) => self.walk(then, dot)?,
                        (false, _) => self.walk(otherwise, dot)?,
                    };
                    self.variables.truncate(scope);
                    if flow != Flow::On {
                        return Ok(flow);
                    }
                }
                Node::Range { line, over, body, otherwise } => {
                    self.line = *line;
                    let scope = self.variables.len();
                    let flow = self.range(over, body, otherwise, dot)?;
                    self.variables.truncate(scope);
                    if flow != Flow::On {
                        return Ok(flow);
                    }
                }
                Node::Break => return Ok(Flow::Break),
                Node::Continue => return Ok(Flow::Continue),
            }
            if self.out.len() > MAX_TEXT_BYTES {
                return Err(self.error("the template's text is too long"));
            }
        }
        Ok(Flow::On)
    }

    fn range(
        &mut self,
        over: &Pipeline,
        body: &[Node],
        otherwise: &[Node],
        dot: &Value,
    ) -> Result<Flow, TemplateError> {
        let value = self.commands(&over.commands, dot)?;
        let items: Vec<(Value, Value)> = match &value {
            Value::List(items) => {
                items.iter().enumerate().map(|(i, v)| (Value::Int(i as i128), v.clone())).collect()
            }
            Value::Map(_) | Value::Record(_) => {
                value.sorted().into_iter().map(|(k, v)| (Value::from(k), v.clone())).collect()
            }
            Value::Int(number @ 0..=1_000_000) => {
                (0..*number).map(|n| (Value::Int(n), Value::Int(n))).collect()
            }
            Value::Nil | Value::None(_) => Vec::new(),
            value => return Err(self.error(format!("range can't iterate over {}", value.print()))),
        };
        if items.is_empty() {
            return self.walk(otherwise, dot);
        }
        let scope = self.variables.len();
        for (key, item) in items {
            self.variables.truncate(scope);
            let values = match &over.variables[..] {
                [] => Vec::new(),
                [one] => vec![(one, item.clone())],
                [index, element, ..] => vec![(index, key), (element, item.clone())],
            };
            for (name, value) in values {
                self.bind(name, value, over.makes)?;
            }
            if self.walk(body, &item)? == Flow::Break {
                break;
            }
        }
        Ok(Flow::On)
    }

    fn bind(&mut self, name: &str, value: Value, makes: bool) -> Result<(), TemplateError> {
        if makes {
            self.variables.push((name.to_owned(), value));
            return Ok(());
        }
        match self.variables.iter_mut().rev().find(|(known, _)| known == name) {
            Some((_, known)) => *known = value,
            None => return Err(self.error(format!("undefined variable \"${name}\""))),
        }
        Ok(())
    }

    fn pipeline(&mut self, pipeline: &Pipeline, dot: &Value) -> Result<Value, TemplateError> {
        let value = self.commands(&pipeline.commands, dot)?;
        if let Some(name) = pipeline.variables.first() {
            self.bind(name, value.clone(), pipeline.makes)?;
        }
        Ok(value)
    }

    fn commands(&mut self, commands: &[Vec<Operand>], dot: &Value) -> Result<Value, TemplateError> {
        let mut last = None;
        for command in commands {
            last = Some(self.command(command, last, dot)?);
        }
        Ok(last.unwrap_or_default())
    }

    fn command(
        &mut self,
        operands: &[Operand],
        last: Option<Value>,
        dot: &Value,
    ) -> Result<Value, TemplateError> {
        let (first, rest) = operands.split_first().ok_or_else(|| self.error("missing value for command"))?;
        if let Operand::Function(name) = first {
            // `and` and `or` stop at the first value that decides.
            if matches!(name.as_str(), "and" | "or") {
                let mut value = Value::Nil;
                for operand in rest {
                    value = self.operand(operand, dot)?;
                    if value.is_true() == (name == "or") {
                        return Ok(value);
                    }
                }
                return Ok(last.unwrap_or(value));
            }
            let mut arguments =
                rest.iter().map(|operand| self.operand(operand, dot)).collect::<Result<Vec<_>, _>>()?;
            arguments.extend(last);
            if self.heading && functions::is_dockers(name) {
                return Ok(arguments.into_iter().next().unwrap_or_default());
            }
            let called = functions::call(name, &arguments);
            return called.map_err(|what| self.error(format!("error calling {name}: {what}")));
        }
        let value = self.operand(first, dot)?;
        let mut arguments =
            rest.iter().map(|operand| self.operand(operand, dot)).collect::<Result<Vec<_>, _>>()?;
        arguments.extend(last);
        match (&value, &arguments[..]) {
            (Value::Lookup(method), [Value::Text(key)]) => Ok(Value::Text(method.answer(key))),
            (Value::Lookup(_), _) => Err(self.error("wrong number of args: want 1 string")),
            (_, []) => Ok(value),
            _ => Err(self.error(format!("can't give argument to non-function {}", value.print()))),
        }
    }

    fn operand(&mut self, operand: &Operand, dot: &Value) -> Result<Value, TemplateError> {
        match operand {
            Operand::Constant(value) => Ok(value.clone()),
            Operand::Function(name) => {
                functions::call(name, &[]).map_err(|what| self.error(format!("error calling {name}: {what}")))
            }
            Operand::Path(start, fields) => {
                let start = match start {
                    Start::Dot => return self.fields(dot, fields),
                    Start::Variable(name) => {
                        let known = self.variables.iter().rev().find(|(known, _)| known == name);
                        known.map(|(_, value)| value.clone())
                    }
                    Start::Group(pipeline) => Some(self.pipeline(pipeline, dot)?),
                };
                match start {
                    Some(value) => self.fields(&value, fields),
                    None => Err(self.error(format!("undefined variable in {operand:?}"))),
                }
            }
        }
    }

    fn fields(&self, value: &Value, fields: &[String]) -> Result<Value, TemplateError> {
        let mut value = value;
        for name in fields {
            value = match value {
                Value::Map(_) => match value.get(name) {
                    Some(value) => value,
                    None => return Ok(Value::Nil),
                },
                Value::Record(_) => match value.field(name) {
                    Some(value) => value,
                    None => {
                        let what = format!("executing \"\" at <.{name}>: map has no entry for key {name:?}");
                        return Err(self.error(what));
                    }
                },
                Value::Nil | Value::None(_) => {
                    let what = format!("executing \"\" at <.{name}>: nil data; no entry for key {name:?}");
                    return Err(self.error(what));
                }
                value => {
                    return Err(self.error(format!(
                        "executing \"\" at <.{name}>: can't evaluate field {name} in type {}",
                        value.kind()
                    )));
                }
            };
        }
        Ok(value.clone())
    }
}
