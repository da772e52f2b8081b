//! YAML as a tree that knows where each part was written.
//!
//! Scalars stay text until somebody asks for a number or a switch: `image: 1.10` is the text `1.10` for whoever wants text. A
//! file is small, but what its aliases stand for may not be: the tree has a limit of nodes, and of depth.

use std::collections::HashMap;
use std::path::Path;
use std::sync::Arc;

use saphyr_parser::{Event, Parser, ScalarStyle, Span, Tag};

use crate::error::{ComposeError, Place};

/// The longest file that is read.
pub const MAX_FILE_BYTES: usize = 16 << 20;
/// The most nodes that a file stands for, aliases followed.
pub const MAX_NODES: usize = 200_000;
/// How deep nodes may be in one another.
pub const MAX_DEPTH: usize = 100;

/// A part of a file.
#[derive(Debug, Clone, PartialEq)]
pub struct Node {
    /// What it is.
    pub content: Content,
    /// Where it is.
    pub place: Place,
    /// What it asks of a merge.
    pub order: Order,
}

/// What a node is.
#[derive(Debug, Clone, PartialEq)]
pub enum Content {
    /// Text, a number, a switch or nothing.
    Scalar {
        /// As written, quotes and escapes resolved.
        text: String,
        /// Without quotes: it may be something else than text.
        plain: bool,
    },
    /// A list.
    List(Vec<Node>),
    /// Keys in the order of the file, each once.
    Map(Vec<(String, Node)>),
}

/// What a node asks of a merge: its tag.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Order {
    /// To be merged as all others.
    #[default]
    Merge,
    /// `!reset`: what was there goes.
    Reset,
    /// `!override`: it takes the place of what was there.
    Override,
}

impl Node {
    /// A text.
    pub fn text(text: impl Into<String>, place: &Place) -> Node {
        let content = Content::Scalar { text: text.into(), plain: false };
        Node { content, place: place.clone(), order: Order::Merge }
    }

    /// A number or a switch.
    pub fn plain(text: impl Into<String>, place: &Place) -> Node {
        let content = Content::Scalar { text: text.into(), plain: true };
        Node { content, place: place.clone(), order: Order::Merge }
    }

    /// A map.
    pub fn map(entries: Vec<(String, Node)>, place: &Place) -> Node {
        Node { content: Content::Map(entries), place: place.clone(), order: Order::Merge }
    }

    /// A list.
    pub fn list(items: Vec<Node>, place: &Place) -> Node {
        Node { content: Content::List(items), place: place.clone(), order: Order::Merge }
    }

    /// Whether it says nothing.
    pub fn is_null(&self) -> bool {
        matches!(&self.content, Content::Scalar { text, plain: true } if matches!(text.as_str(), "" | "~" | "null" | "Null" | "NULL"))
    }

    /// Its text, if it is a scalar that says something.
    pub fn as_text(&self) -> Option<&str> {
        match &self.content {
            Content::Scalar { text, .. } if !self.is_null() => Some(text),
            _ => None,
        }
    }

    /// Its entries, if it is a map.
    pub fn as_map(&self) -> Option<&[(String, Node)]> {
        match &self.content {
            Content::Map(entries) => Some(entries),
            _ => None,
        }
    }

    /// As [`Node::as_map`], to be changed.
    pub fn as_map_mut(&mut self) -> Option<&mut Vec<(String, Node)>> {
        match &mut self.content {
            Content::Map(entries) => Some(entries),
            _ => None,
        }
    }

    /// Its items, if it is a list.
    pub fn as_list(&self) -> Option<&[Node]> {
        match &self.content {
            Content::List(items) => Some(items),
            _ => None,
        }
    }

    /// The value of a key.
    pub fn get(&self, key: &str) -> Option<&Node> {
        self.as_map()?.iter().find(|(known, _)| known == key).map(|(_, node)| node)
    }

    /// As [`Node::get`], to be changed.
    pub fn get_mut(&mut self, key: &str) -> Option<&mut Node> {
        self.as_map_mut()?.iter_mut().find(|(known, _)| known == key).map(|(_, node)| node)
    }

    /// Sets a key.
    pub fn set(&mut self, key: &str, value: Node) {
        match self.get_mut(key) {
            Some(known) => *known = value,
            None => {
                if let Some(entries) = self.as_map_mut() {
                    entries.push((key.to_owned(), value));
                }
            }
        }
    }

    /// Takes a key out.
    pub fn remove(&mut self, key: &str) -> Option<Node> {
        let entries = self.as_map_mut()?;
        let at = entries.iter().position(|(known, _)| known == key)?;
        Some(entries.remove(at).1)
    }
}

/// Whether plain text is a switch, as YAML 1.1 and 1.2 have them.
pub(crate) fn switch(text: &str) -> Option<bool> {
    match text {
        "true" | "True" | "TRUE" | "yes" | "Yes" | "YES" | "on" | "On" | "ON" | "y" | "Y" => Some(true),
        "false" | "False" | "FALSE" | "no" | "No" | "NO" | "off" | "Off" | "OFF" | "n" | "N" => Some(false),
        _ => None,
    }
}

/// A whole number in any of Go's and YAML's ways: `10`, `0o17`, `017`, `0x1f`, `1_000`.
pub(crate) fn integer(text: &str) -> Option<i64> {
    let plain = text.replace('_', "");
    let (sign, digits) = match plain.strip_prefix('-') {
        Some(digits) => (-1, digits),
        None => (1, plain.strip_prefix('+').unwrap_or(&plain)),
    };
    let based = [("0x", 16), ("0o", 8), ("0b", 2)];
    for (prefix, base) in based {
        if let Some(digits) = digits.strip_prefix(prefix) {
            return i64::from_str_radix(digits, base).ok().map(|n| sign * n);
        }
    }
    if digits.len() > 1 && digits.starts_with('0') && digits.bytes().all(|b| b.is_ascii_digit()) {
        return i64::from_str_radix(digits, 8).ok().map(|n| sign * n);
    }
    if digits.is_empty() || !digits.bytes().all(|b| b.is_ascii_digit()) {
        return None;
    }
    digits.parse::<i64>().ok().map(|n| sign * n)
}

/// Reads the documents of a file.
///
/// # Errors
/// If it is no YAML, has a key twice, or stands for more than anyone writes.
pub fn parse(text: &str, file: &Path) -> Result<Vec<Node>, ComposeError> {
    let file: Arc<Path> = Arc::from(file);
    let start = Place { file: Arc::clone(&file), line: 1 };
    if text.len() > MAX_FILE_BYTES {
        return Err(start.error(format!("the file has more than {} MiB", MAX_FILE_BYTES >> 20)));
    }
    let mut reader = Reader { parser: Parser::new_from_str(text), file, anchors: HashMap::new(), nodes: 0 };
    let mut documents = Vec::new();
    loop {
        let (event, span) = reader.next()?;
        match event {
            Event::StreamEnd => return Ok(documents),
            Event::DocumentStart(_) | Event::DocumentEnd | Event::StreamStart | Event::Nothing => {}
            event => documents.push(reader.node(event, span, 0)?),
        }
    }
}

type Parsed<'i> = (Event<'i>, Span);

struct Reader<'i> {
    parser: Parser<'i, saphyr_parser::StrInput<'i>>,
    file: Arc<Path>,
    /// What is named, with how many nodes it is.
    anchors: HashMap<usize, (Node, usize)>,
    nodes: usize,
}

impl<'i> Reader<'i> {
    fn place(&self, span: Span) -> Place {
        Place { file: Arc::clone(&self.file), line: span.start.line() }
    }

    fn next(&mut self) -> Result<Parsed<'i>, ComposeError> {
        match self.parser.next_event() {
            Some(Ok(event)) => Ok(event),
            Some(Err(error)) => {
                let place = Place { file: Arc::clone(&self.file), line: error.marker().line() };
                Err(place.error(format!("this is no YAML: {}", error.info())))
            }
            None => {
                let place = Place { file: Arc::clone(&self.file), line: 1 };
                Err(place.error("the file ends in the middle"))
            }
        }
    }

    /// Counts nodes against the limit.
    fn count(&mut self, more: usize, place: &Place) -> Result<(), ComposeError> {
        self.nodes = self.nodes.saturating_add(more);
        if self.nodes > MAX_NODES {
            return Err(place.error(format!(
                "the file stands for more than {MAX_NODES} values: are there aliases of aliases?"
            )));
        }
        Ok(())
    }

    fn node(&mut self, event: Event<'i>, span: Span, depth: usize) -> Result<Node, ComposeError> {
        let place = self.place(span);
        if depth > MAX_DEPTH {
            return Err(place.error("values are nested too deep"));
        }
        let before = self.nodes;
        self.count(1, &place)?;
        let (content, anchor, order) = match event {
            Event::Scalar(text, style, anchor, tag) => {
                let (order, is_text) = order_of(tag.as_deref());
                let plain = style == ScalarStyle::Plain && !is_text;
                (Content::Scalar { text: text.into_owned(), plain }, anchor, order)
            }
            Event::SequenceStart(anchor, tag) => {
                let mut items = Vec::new();
                loop {
                    match self.next()? {
                        (Event::SequenceEnd, _) => break,
                        (event, span) => items.push(self.node(event, span, depth + 1)?),
                    }
                }
                (Content::List(items), anchor, order_of(tag.as_deref()).0)
            }
            Event::MappingStart(anchor, tag) => {
                (Content::Map(self.entries(depth)?), anchor, order_of(tag.as_deref()).0)
            }
            Event::Alias(anchor) => {
                let known = self.anchors.get(&anchor).cloned();
                let (node, size) = known.ok_or_else(|| place.error("an alias names what it is a part of"))?;
                self.count(size, &place)?;
                return Ok(node);
            }
            event => return Err(place.error(format!("this is no YAML: unexpected {event:?}"))),
        };
        let node = Node { content, place, order };
        if anchor > 0 {
            self.anchors.insert(anchor, (node.clone(), self.nodes - before));
        }
        Ok(node)
    }

    fn entries(&mut self, depth: usize) -> Result<Vec<(String, Node)>, ComposeError> {
        let mut entries: Vec<(String, Node)> = Vec::new();
        // What `<<` brings is behind all that is written here.
        let mut merged: Vec<Node> = Vec::new();
        loop {
            let (event, span) = self.next()?;
            if matches!(event, Event::MappingEnd) {
                break;
            }
            let place = self.place(span);
            let key = self.node(event, span, depth + 1)?;
            let Content::Scalar { text: key, plain } = key.content else {
                return Err(place.error("a key is a list or a map"));
            };
            let (event, span) = self.next()?;
            let mut value = self.node(event, span, depth + 1)?;
            if key == "<<" && plain {
                match value.content {
                    Content::List(items) => merged.extend(items),
                    _ => merged.push(value),
                }
                continue;
            }
            if entries.iter().any(|(known, _)| *known == key) {
                return Err(place.error(format!("the key `{key}` is there twice")));
            }
            if value.is_null() {
                // Nothing has no place of its own.
                value.place = place;
            }
            entries.push((key, value));
        }
        for node in merged {
            let place = node.place.clone();
            let Content::Map(more) = node.content else {
                return Err(place.error("`<<` takes a map, or a list of maps"));
            };
            for (key, value) in more {
                if !entries.iter().any(|(known, _)| *known == key) {
                    entries.push((key, value));
                }
            }
        }
        Ok(entries)
    }
}

/// What a tag asks for, and whether it makes a scalar text.
fn order_of(tag: Option<&Tag>) -> (Order, bool) {
    let Some(tag) = tag else { return (Order::Merge, false) };
    match (tag.handle.as_str(), tag.suffix.as_str()) {
        ("!", "reset") => (Order::Reset, false),
        ("!", "override") => (Order::Override, false),
        (_, "str") => (Order::Merge, true),
        _ => (Order::Merge, false),
    }
}
