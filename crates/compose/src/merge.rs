//! One file over another: what the later says wins, maps and lists grow.
//!
//! Files are in their long form ([`crate::canonical`]). Exceptions by path: a command takes the place of a command; lists whose
//! items stand for something of a name or a target (ports, mounts, configs, …) have each of them once.

use crate::yaml::{Content, Node, Order};

/// Merges `over` into `base`.
pub(crate) fn merge(base: &mut Node, over: Node) {
    merge_at(base, over, &mut Vec::new());
}

/// Merges a service into another.
pub(crate) fn merge_service(base: &mut Node, over: Node) {
    merge_at(base, over, &mut vec!["services".to_owned(), String::new()]);
}

fn merge_at(base: &mut Node, over: Node, path: &mut Vec<String>) {
    if over.order == Order::Override {
        *base = over;
        base.order = Order::Merge;
        return;
    }
    // Saying nothing changes nothing.
    if over.is_null() {
        return;
    }
    let place = over.place.clone();
    match (&mut base.content, over.content) {
        (Content::Map(known), Content::Map(entries)) => {
            if is_logging(path) && driver(known) != driver(&entries) && driver(&entries).is_some() {
                known.retain(|(key, _)| key != "options");
            }
            for (key, value) in entries {
                if value.order == Order::Reset {
                    known.retain(|(name, _)| *name != key);
                    continue;
                }
                path.push(key.clone());
                match known.iter_mut().find(|(name, _)| *name == key) {
                    Some((_, known)) => merge_at(known, value, path),
                    None => known.push((key, cleaned(value))),
                }
                path.pop();
            }
        }
        (Content::List(known), Content::List(items)) => merge_lists(known, items, path),
        (_, content) => {
            base.content = content;
            base.place = place;
        }
    }
}

/// A part of a file without what its tags ask for.
pub(crate) fn cleaned(mut node: Node) -> Node {
    node.order = Order::Merge;
    match node.content {
        Content::Map(entries) => {
            let kept = entries.into_iter().filter(|(_, value)| value.order != Order::Reset);
            node.content = Content::Map(kept.map(|(key, value)| (key, cleaned(value))).collect());
        }
        Content::List(items) => {
            let kept = items.into_iter().filter(|item| item.order != Order::Reset);
            node.content = Content::List(kept.map(cleaned).collect());
        }
        Content::Scalar { .. } => {}
    }
    node
}

fn is_logging(path: &[String]) -> bool {
    matches!(path, [services, _, logging] if services == "services" && logging == "logging")
}

fn driver(entries: &[(String, Node)]) -> Option<&str> {
    entries.iter().find(|(key, _)| key == "driver").and_then(|(_, node)| node.as_text())
}

fn merge_lists(known: &mut Vec<Node>, items: Vec<Node>, path: &[String]) {
    let of_service: Vec<&str> = match path {
        [services, _, rest @ ..] if services == "services" => rest.iter().map(String::as_str).collect(),
        _ => Vec::new(),
    };
    let fields: &[&str] = match of_service[..] {
        ["command" | "entrypoint"] | ["healthcheck", "test"] => {
            *known = items;
            return;
        }
        ["ports"] => &["host_ip", "target", "published", "protocol"],
        ["volumes" | "configs" | "secrets" | "devices"] | ["build", "secrets"] => &["target"],
        ["env_file"] => &["path"],
        _ => &[],
    };
    for item in items {
        let item = cleaned(item);
        let key = |node: &Node| -> Vec<String> {
            let text = |field: &&str| node.get(field).and_then(Node::as_text).unwrap_or_default().to_owned();
            let key: Vec<String> = fields.iter().map(text).collect();
            // A config without a target is known by its source.
            if key.iter().all(String::is_empty) { vec![text(&"source")] } else { key }
        };
        let same = |node: &Node| match (fields.is_empty(), node.as_text()) {
            (true, Some(text)) => item.as_text() == Some(text),
            (true, None) => false,
            (false, _) => key(node) == key(&item),
        };
        match known.iter_mut().find(|node| same(node)) {
            Some(node) => *node = item,
            None => known.push(item),
        }
    }
}
