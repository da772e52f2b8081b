//! The corpus: cases in text files.
//!
//! ```text
//! ### a name
//! @args --build-arg A=1          options of the command line
//! @file d/f@755 text\n           a file in the context; `d/` a directory, `-> x` a link, `@@sparse`… see `context`
//! @ignore *.md                   a line of .dockerignore
//! @before RUN x                  a line of the Dockerfile of an image `@before@`, built first
//! @new 1.4: heredocs             since which version of the Dockerfile language; Debian's peers do not know it
//! @only-sampan why               no peer is asked
//! @differs buildah why           this peer does otherwise, and why that is its own affair
//! @says text                     is in what we say; for cases that fail
//! @docker                        our side is asked through docker's client, too
//! @= f 644 0:0 2 /x "a\n"        what is expected of the result, line by line, instead of what a peer gives
//! COPY a /x                      the Dockerfile; without FROM it starts with `FROM localhost/base`
//! ```

use std::path::Path;

#[derive(Clone, Debug, Default)]
pub(crate) struct Case {
    /// The file that it is in, without `.txt`.
    pub(crate) story: String,
    pub(crate) name: String,
    pub(crate) dockerfile: String,
    pub(crate) before: String,
    pub(crate) args: Vec<String>,
    pub(crate) files: Vec<(String, String)>,
    pub(crate) ignore: String,
    pub(crate) new: Option<String>,
    pub(crate) only_sampan: Option<String>,
    pub(crate) differs: Vec<(String, String)>,
    pub(crate) says: Vec<String>,
    pub(crate) docker: bool,
    pub(crate) own: Option<String>,
}

impl Case {
    pub(crate) fn id(&self) -> String {
        format!("{}::{}", self.story, self.name)
    }

    /// A name for its image.
    pub(crate) fn tag(&self) -> String {
        let plain = |c: char| if c.is_ascii_alphanumeric() { c.to_ascii_lowercase() } else { '-' };
        let name: String = self.name.chars().map(plain).collect();
        format!("localhost/{}-{}", self.story, name.trim_matches('-').replace("--", "-").replace("--", "-"))
    }

    /// Why a peer other than ours is not asked.
    pub(crate) fn not_for_peers(&self) -> Option<&str> {
        self.new.as_deref().or(self.only_sampan.as_deref())
    }
}

/// All cases of all stories.
pub(crate) fn read(directory: &Path) -> Vec<Case> {
    let mut files: Vec<_> = std::fs::read_dir(directory).unwrap().map(|e| e.unwrap().path()).collect();
    files.sort();
    let mut cases = Vec::new();
    for file in files.iter().filter(|f| f.extension().is_some_and(|e| e == "txt")) {
        let story = file.file_stem().unwrap().to_string_lossy().into_owned();
        let text = std::fs::read_to_string(file).unwrap();
        for part in text.split("\n### ").skip(1) {
            cases.push(case(&story, part));
        }
    }
    cases
}

fn case(story: &str, text: &str) -> Case {
    let (name, rest) = text.split_once('\n').unwrap_or((text, ""));
    let mut case = Case { story: story.to_owned(), name: name.trim().to_owned(), ..Case::default() };
    let mut dockerfile = String::new();
    for line in rest.lines() {
        let Some(directive) = line.strip_prefix('@').filter(|_| dockerfile.is_empty()) else {
            dockerfile.push_str(line);
            dockerfile.push('\n');
            continue;
        };
        let (key, value) = directive.split_once(' ').unwrap_or((directive, ""));
        match key {
            "args" => case.args.extend(value.split(' ').map(str::to_owned)),
            "file" => {
                let (path, content) = value.split_once(' ').unwrap_or((value, ""));
                case.files.push((path.to_owned(), content.replace("\\n", "\n").replace("\\t", "\t")));
            }
            "ignore" => case.ignore += &format!("{value}\n"),
            "before" => case.before += &format!("{value}\n"),
            "new" => case.new = Some(value.to_owned()),
            "only-sampan" => case.only_sampan = Some(value.to_owned()),
            "differs" => {
                let (who, why) = value.split_once(' ').expect("who differs, and why");
                case.differs.push((who.to_owned(), why.to_owned()));
            }
            "says" => case.says.push(value.to_owned()),
            "docker" => case.docker = true,
            "=" => *case.own.get_or_insert_default() += &format!("{value}\n"),
            other => panic!("{story}: {name}: unknown @{other}"),
        }
    }
    let tag = case.tag();
    let whole = |text: &str| {
        let text = text.trim_end_matches('\n').replace("@before@", &format!("{tag}-before"));
        let first = text.split_whitespace().next().unwrap_or("").to_ascii_uppercase();
        let alone = first == "FROM" || first.starts_with('#') || text.contains("\nFROM ");
        if alone || text.is_empty() { text } else { format!("FROM localhost/base\n{text}") }
    };
    case.dockerfile = whole(&dockerfile);
    // The end of the last line is as it is written, and files end with one.
    if !case.dockerfile.is_empty() {
        case.dockerfile.push('\n');
    }
    if !case.before.is_empty() {
        case.before = whole(&case.before) + "\n";
    }
    case
}
