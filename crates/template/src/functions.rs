//! What templates may call: Go's functions and Docker's.

use std::cmp::Ordering;
use std::fmt::Write;

use crate::Value;
use crate::value::float;

const NAMES: [&str; 26] = [
    "and", "or", "not", "len", "index", "slice", "print", "printf", "println", "eq", "ne", "lt", "le", "gt",
    "ge", "html", "js", "urlquery", "json", "join", "split", "title", "lower", "upper", "pad", "truncate",
];

pub(crate) fn exists(name: &str) -> bool {
    NAMES.contains(&name)
}

/// Those that say how a value is shown.
pub(crate) fn is_dockers(name: &str) -> bool {
    matches!(name, "json" | "join" | "split" | "title" | "lower" | "upper" | "truncate")
}

/// The longest text that `pad` and widths make.
const MAX_WIDTH: i128 = 10_000;

pub(crate) fn call(name: &str, arguments: &[Value]) -> Result<Value, String> {
    let wrong = || Err(format!("wrong number of args: got {}", arguments.len()));
    let one = |act: &dyn Fn(&str) -> String| match arguments {
        [value] => Ok(Value::Text(act(&text_of(value)?))),
        _ => wrong(),
    };
    match name {
        "not" => match arguments {
            [value] => Ok(Value::Bool(!value.is_true())),
            _ => wrong(),
        },
        "len" => match arguments {
            [Value::Text(text)] => Ok(Value::Int(text.len() as i128)),
            [Value::List(items)] => Ok(Value::Int(items.len() as i128)),
            [Value::Map(fields) | Value::Record(fields)] => Ok(Value::Int(fields.len() as i128)),
            // A list or map of Go's that is nil has no elements.
            [Value::Nil | Value::None(_)] => Ok(Value::Int(0)),
            [value] => Err(format!("len of type {}", value.kind())),
            _ => wrong(),
        },
        "index" => {
            let Some((first, path)) = arguments.split_first() else { return wrong() };
            path.iter().try_fold(first.clone(), |value, key| index(&value, key))
        }
        "slice" => slice(arguments),
        "print" => Ok(Value::Text(print(arguments))),
        "println" => {
            let words: Vec<String> = arguments.iter().map(inner).collect();
            Ok(Value::Text(words.join(" ") + "\n"))
        }
        "printf" => match arguments.split_first() {
            Some((Value::Text(format), rest)) => printf(format, rest).map(Value::Text),
            _ => wrong(),
        },
        "eq" => match arguments {
            [first, rest @ ..] if !rest.is_empty() => {
                for other in rest {
                    if equal(first, other)? {
                        return Ok(Value::Bool(true));
                    }
                }
                Ok(Value::Bool(false))
            }
            _ => Err("missing argument for comparison".to_owned()),
        },
        "ne" => match arguments {
            [a, b] => Ok(Value::Bool(!equal(a, b)?)),
            _ => wrong(),
        },
        "lt" | "le" | "gt" | "ge" => match arguments {
            [a, b] => {
                let order = compare(a, b)?;
                Ok(Value::Bool(match name {
                    "lt" => order == Ordering::Less,
                    "le" => order != Ordering::Greater,
                    "gt" => order == Ordering::Greater,
                    _ => order != Ordering::Less,
                }))
            }
            _ => wrong(),
        },
        "html" => Ok(Value::Text(escape(&print(arguments), &|c| match c {
            '<' => Some("&lt;".into()),
            '>' => Some("&gt;".into()),
            '&' => Some("&amp;".into()),
            '"' => Some("&#34;".into()),
            '\'' => Some("&#39;".into()),
            _ => None,
        }))),
        "js" => Ok(Value::Text(escape(&print(arguments), &|c| match c {
            '\\' => Some("\\\\".into()),
            '\'' => Some("\\'".into()),
            '"' => Some("\\\"".into()),
            '<' => Some("\\u003C".into()),
            '>' => Some("\\u003E".into()),
            '&' => Some("\\u0026".into()),
            '=' => Some("\\u003D".into()),
            c if c < ' ' => Some(format!("\\u{:04X}", u32::from(c))),
            _ => None,
        }))),
        "urlquery" => {
            let keep = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_' | b'.' | b'~');
            let mut out = String::new();
            for byte in print(arguments).bytes() {
                match byte {
                    b' ' => out.push('+'),
                    byte if keep(byte) => out.push(char::from(byte)),
                    byte => {
                        let _ = write!(out, "%{byte:02X}");
                    }
                }
            }
            Ok(Value::Text(out))
        }
        "json" => match arguments {
            [value] => serde_json::to_string(value).map(Value::Text).map_err(|e| e.to_string()),
            _ => wrong(),
        },
        "join" => match arguments {
            [Value::List(items), Value::Text(between)] => {
                Ok(Value::Text(items.iter().map(inner).collect::<Vec<_>>().join(between)))
            }
            [Value::Nil | Value::None(_), Value::Text(_)] => Ok(Value::Text(String::new())),
            [value, _] => Err(format!("expected a list of strings, got {}", value.kind())),
            _ => wrong(),
        },
        "split" => match arguments {
            [Value::Text(text), Value::Text(between)] if between.is_empty() => {
                Ok(Value::List(text.chars().map(|c| Value::Text(c.to_string())).collect()))
            }
            [Value::Text(text), Value::Text(between)] => {
                Ok(Value::List(text.split(between.as_str()).map(Value::from).collect()))
            }
            _ => wrong(),
        },
        "title" => one(&|text| {
            let mut before = ' ';
            let mut out = String::new();
            for c in text.chars() {
                if before.is_whitespace() {
                    out.extend(c.to_uppercase())
                } else {
                    out.push(c)
                }
                before = c;
            }
            out
        }),
        "lower" => one(&str::to_lowercase),
        "upper" => one(&str::to_uppercase),
        "pad" => match arguments {
            [Value::Text(text), Value::Int(before), Value::Int(after)] => {
                let spaces = |n: &i128| " ".repeat(usize::try_from((*n).clamp(0, MAX_WIDTH)).unwrap_or(0));
                if text.is_empty() {
                    return Ok(Value::Text(String::new()));
                }
                Ok(Value::Text(format!("{}{text}{}", spaces(before), spaces(after))))
            }
            _ => wrong(),
        },
        "truncate" => match arguments {
            [Value::Text(text), Value::Int(length)] => {
                Ok(Value::Text(text.chars().take(usize::try_from(*length).unwrap_or(0)).collect()))
            }
            _ => wrong(),
        },
        name => Err(format!("there is no function {name}")),
    }
}

fn text_of(value: &Value) -> Result<String, String> {
    match value {
        Value::Text(text) => Ok(text.clone()),
        value => Err(format!("wrong type: expected string; found {}", value.kind())),
    }
}

fn escape(text: &str, by: &dyn Fn(char) -> Option<String>) -> String {
    text.chars().map(|c| by(c).unwrap_or_else(|| c.to_string())).collect()
}

/// As Go prints what is handed to a function: nothing is `<nil>`.
fn inner(value: &Value) -> String {
    match value {
        Value::Nil => "<nil>".to_owned(),
        value => value.print(),
    }
}

/// Go's `Sprint`: spaces only between two values that are both no text.
fn print(arguments: &[Value]) -> String {
    let mut out = String::new();
    for (at, value) in arguments.iter().enumerate() {
        let is_text = |v: &Value| matches!(v, Value::Text(_));
        if at > 0 && !is_text(value) && !is_text(&arguments[at - 1]) {
            out.push(' ');
        }
        out += &inner(value);
    }
    out
}

fn index(value: &Value, key: &Value) -> Result<Value, String> {
    match (value, key) {
        (Value::List(items), Value::Int(at)) => usize::try_from(*at)
            .ok()
            .and_then(|at| items.get(at))
            .cloned()
            .ok_or_else(|| format!("reflect: slice index out of range: {at}")),
        (Value::Text(text), Value::Int(at)) => usize::try_from(*at)
            .ok()
            .and_then(|at| text.as_bytes().get(at))
            .map(|byte| Value::Int(i128::from(*byte)))
            .ok_or_else(|| format!("index out of range: {at}")),
        // Of a map of texts, what is not there is the empty text.
        (Value::Map(fields) | Value::Record(fields), Value::Text(key)) => {
            let texts = fields.iter().all(|(_, v)| matches!(v, Value::Text(_)));
            let missing = if texts { Value::Text(String::new()) } else { Value::Nil };
            Ok(value.get(key).cloned().unwrap_or(missing))
        }
        (Value::Nil | Value::None(_), Value::Text(_)) => Ok(Value::Text(String::new())),
        (Value::Nil | Value::None(_), _) => Err("index of untyped nil".to_owned()),
        (value, key) => Err(format!("cannot index {} with {}", value.kind(), key.kind())),
    }
}

fn slice(arguments: &[Value]) -> Result<Value, String> {
    let Some((value, bounds)) = arguments.split_first() else {
        return Err("wrong number of args: got 0".to_owned());
    };
    let length = match value {
        Value::Text(text) => text.len(),
        Value::List(items) => items.len(),
        value => return Err(format!("can't slice item of type {}", value.kind())),
    };
    let bound = |at: usize, default: usize| match bounds.get(at) {
        None => Ok(default),
        Some(Value::Int(number)) => usize::try_from(*number)
            .ok()
            .filter(|n| *n <= length)
            .ok_or_else(|| format!("index out of range: {number}")),
        Some(value) => Err(format!("cannot index slice/array with type {}", value.kind())),
    };
    let (from, to) = (bound(0, 0)?, bound(1, length)?);
    if from > to {
        return Err(format!("invalid slice index: {from} > {to}"));
    }
    match value {
        Value::Text(text) => {
            text.get(from..to).map(Value::from).ok_or_else(|| "a character is cut in two".to_owned())
        }
        Value::List(items) => Ok(Value::List(items[from..to].to_vec())),
        _ => Ok(Value::Nil),
    }
}

fn equal(a: &Value, b: &Value) -> Result<bool, String> {
    match (a, b) {
        (Value::Nil | Value::None(_), Value::Nil | Value::None(_)) => Ok(true),
        (Value::Nil | Value::None(_), _) | (_, Value::Nil | Value::None(_)) => Ok(false),
        (Value::Bool(a), Value::Bool(b)) => Ok(a == b),
        (Value::Text(a), Value::Text(b)) => Ok(a == b),
        (Value::Int(_) | Value::Float(_), Value::Int(_) | Value::Float(_)) => {
            compare(a, b).map(|order| order == Ordering::Equal)
        }
        (Value::List(_) | Value::Map(_) | Value::Record(_), _) => Err("non-comparable type".to_owned()),
        _ => Err("incompatible types for comparison".to_owned()),
    }
}

fn compare(a: &Value, b: &Value) -> Result<Ordering, String> {
    #[allow(clippy::cast_precision_loss)]
    let number = |v: &Value| match v {
        Value::Int(number) => Some(*number as f64),
        Value::Float(number) => Some(*number),
        _ => None,
    };
    match (a, b) {
        (Value::Int(a), Value::Int(b)) => Ok(a.cmp(b)),
        (Value::Text(a), Value::Text(b)) => Ok(a.cmp(b)),
        _ => match (number(a), number(b)) {
            (Some(a), Some(b)) => a.partial_cmp(&b).ok_or_else(|| "NaN can't be compared".to_owned()),
            _ => Err("incompatible types for comparison".to_owned()),
        },
    }
}

/// Go's `Sprintf` with the verbs and flags that formats have use for.
fn printf(format: &str, arguments: &[Value]) -> Result<String, String> {
    let mut out = String::new();
    let mut rest = format;
    let mut next = arguments.iter();
    while let Some((before, after)) = rest.split_once('%') {
        out += before;
        let flags_end = after.find(|c| !"+-# 0".contains(c)).unwrap_or(after.len());
        let flags = &after[..flags_end];
        let after = &after[flags_end..];
        let verb_at = after.find(|c: char| !c.is_ascii_digit() && c != '.').unwrap_or(after.len());
        let (width, precision) = match after[..verb_at].split_once('.') {
            Some((width, precision)) => (width, Some(precision.parse::<usize>().unwrap_or(0))),
            None => (&after[..verb_at], None),
        };
        let width = width.parse::<usize>().unwrap_or(0);
        if width.max(precision.unwrap_or(0)) > 10_000 {
            return Err("a width is too large".to_owned());
        }
        let Some(verb) = after[verb_at..].chars().next() else {
            out += "%!(NOVERB)";
            return Ok(out);
        };
        rest = &after[verb_at + verb.len_utf8()..];
        if verb == '%' {
            out.push('%');
            continue;
        }
        let Some(value) = next.next() else {
            let _ = write!(out, "%!{verb}(MISSING)");
            continue;
        };
        let plus = |text: String| {
            if flags.contains('+') && !text.starts_with('-') { format!("+{text}") } else { text }
        };
        let cut = |text: String| match precision {
            Some(length) => text.chars().take(length).collect(),
            None => text,
        };
        let text = match (verb, value) {
            ('v' | 's', Value::Text(text)) => cut(text.clone()),
            ('v', value) => inner(value),
            ('s', value @ (Value::List(_) | Value::Map(_))) => inner(value),
            ('q', Value::Text(text)) => format!("{text:?}"),
            ('q', Value::List(items)) => {
                let quoted: Vec<String> = items.iter().map(|i| format!("{:?}", inner(i))).collect();
                format!("[{}]", quoted.join(" "))
            }
            ('d', Value::Int(number)) => plus(number.to_string()),
            ('x', Value::Int(number)) => format!("{number:x}"),
            ('X', Value::Int(number)) => format!("{number:X}"),
            ('o', Value::Int(number)) => format!("{number:o}"),
            ('b', Value::Int(number)) => format!("{number:b}"),
            ('c', Value::Int(number)) => {
                u32::try_from(*number).ok().and_then(char::from_u32).unwrap_or('\u{fffd}').to_string()
            }
            ('x', Value::Text(text)) => text.bytes().map(|b| format!("{b:02x}")).collect(),
            ('f' | 'F', Value::Float(number)) => plus(format!("{number:.*}", precision.unwrap_or(6))),
            ('g', Value::Float(number)) => plus(float(*number)),
            ('t', Value::Bool(yes)) => yes.to_string(),
            (verb, value) => format!("%!{verb}({}={})", value.kind(), inner(value)),
        };
        let missing = width.saturating_sub(text.chars().count());
        match (flags.contains('-'), flags.contains('0') && !matches!(value, Value::Text(_))) {
            (true, _) => out += &(text + &" ".repeat(missing)),
            (false, true) => {
                let (sign, digits) = match text.strip_prefix(['+', '-']) {
                    Some(digits) => (&text[..1], digits),
                    None => ("", text.as_str()),
                };
                out += &format!("{sign}{}{digits}", "0".repeat(missing));
            }
            (false, false) => out += &(" ".repeat(missing) + &text),
        }
    }
    out += rest;
    if next.len() > 0 {
        let extra: Vec<String> = next.map(|v| format!("{}={}", v.kind(), inner(v))).collect();
        let _ = write!(out, "%!(EXTRA {})", extra.join(", "));
    }
    Ok(out)
}
