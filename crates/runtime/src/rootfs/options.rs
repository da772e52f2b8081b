//! Mount options: words of fstab, sorted into what the kernel's calls take.

use rustix::mount::{MountAttrFlags as Attr, MountPropagationFlags as Propagation};
use sampan_kernel::mount::{ATIME_MASK, Change};

use crate::error::Refused;

/// Attributes to set and to clear.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Attributes {
    /// To set.
    pub set: Attr,
    /// To clear.
    pub clear: Attr,
}

impl Default for Attributes {
    fn default() -> Self {
        Attributes { set: Attr::empty(), clear: Attr::empty() }
    }
}

impl Attributes {
    /// As a change to a mount.
    pub fn change(self) -> Change<'static> {
        Change { set: self.set, clear: self.clear, ..Change::default() }
    }

    /// Takes in a word's meaning; a later word wins.
    fn take(&mut self, word: Word) {
        match word {
            Word::Set(attr) => {
                self.set |= attr;
                self.clear -= attr;
            }
            Word::Clear(attr) => {
                self.clear |= attr;
                self.set -= attr;
            }
            Word::Atime(mode) => {
                self.set = (self.set - ATIME_MASK) | mode;
                self.clear |= ATIME_MASK;
            }
        }
    }
}

#[derive(Clone, Copy)]
enum Word {
    Set(Attr),
    Clear(Attr),
    Atime(Attr),
}

/// Words about the mount itself. With an `r` in front, they are about all mounts below it, too.
const ATTRIBUTES: [(&str, Word); 18] = [
    ("ro", Word::Set(Attr::MOUNT_ATTR_RDONLY)),
    ("rw", Word::Clear(Attr::MOUNT_ATTR_RDONLY)),
    ("nosuid", Word::Set(Attr::MOUNT_ATTR_NOSUID)),
    ("suid", Word::Clear(Attr::MOUNT_ATTR_NOSUID)),
    ("nodev", Word::Set(Attr::MOUNT_ATTR_NODEV)),
    ("dev", Word::Clear(Attr::MOUNT_ATTR_NODEV)),
    ("noexec", Word::Set(Attr::MOUNT_ATTR_NOEXEC)),
    ("exec", Word::Clear(Attr::MOUNT_ATTR_NOEXEC)),
    ("nosymfollow", Word::Set(Attr::MOUNT_ATTR_NOSYMFOLLOW)),
    ("symfollow", Word::Clear(Attr::MOUNT_ATTR_NOSYMFOLLOW)),
    ("nodiratime", Word::Set(Attr::MOUNT_ATTR_NODIRATIME)),
    ("diratime", Word::Clear(Attr::MOUNT_ATTR_NODIRATIME)),
    ("noatime", Word::Atime(Attr::MOUNT_ATTR_NOATIME)),
    ("atime", Word::Atime(Attr::MOUNT_ATTR_RELATIME)),
    ("relatime", Word::Atime(Attr::MOUNT_ATTR_RELATIME)),
    ("norelatime", Word::Atime(Attr::MOUNT_ATTR_STRICTATIME)),
    ("strictatime", Word::Atime(Attr::MOUNT_ATTR_STRICTATIME)),
    ("nostrictatime", Word::Atime(Attr::MOUNT_ATTR_RELATIME)),
];

/// Words about how mount events pass. With an `r` in front, as above.
const PROPAGATIONS: [(&str, Propagation); 4] = [
    ("private", Propagation::PRIVATE),
    ("shared", Propagation::SHARED),
    ("slave", Propagation::DOWNSTREAM),
    ("unbindable", Propagation::UNBINDABLE),
];

/// Words about the file system as a whole, handed on as they are.
const SUPERBLOCK: [&str; 7] = ["sync", "async", "dirsync", "lazytime", "nolazytime", "mand", "nomand"];

/// Words that change nothing here: they are the default, or a matter of mount(8).
const WITHOUT_EFFECT: [&str; 7] =
    ["defaults", "loud", "silent", "iversion", "noiversion", "_netdev", "nofail"];

/// Words with a meaning of their own.
const OTHERS: [&str; 8] =
    ["bind", "rbind", "remount", "idmap", "ridmap", "tmpcopyup", "src-nofollow", "dest-nofollow"];

/// Every word that has a meaning, for `features`.
pub fn known() -> Vec<String> {
    let mut words: Vec<String> = Vec::new();
    let recursive = |word: &&str| [(*word).to_owned(), format!("r{word}")];
    words.extend(ATTRIBUTES.iter().map(|(word, _)| word).flat_map(recursive));
    words.extend(PROPAGATIONS.iter().map(|(word, _)| word).flat_map(recursive));
    words.extend(OTHERS.map(str::to_owned));
    words.extend(SUPERBLOCK.iter().chain(&WITHOUT_EFFECT[..5]).map(|&word| word.to_owned()));
    words.sort();
    words
}

/// A mount's options, sorted.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct MountOptions {
    /// Whether it is a bind mount, and if so whether with the mounts below.
    pub bind: Option<bool>,
    /// Attributes of the mount.
    pub attributes: Attributes,
    /// Attributes of the mount and of those below it.
    pub recursive: Attributes,
    /// How mount events pass, in this order; whether for the mounts below, too.
    pub propagation: Vec<(Propagation, bool)>,
    /// Flags of the file system as a whole.
    pub superblock: Vec<String>,
    /// The file system's own options.
    pub data: Vec<(String, Option<String>)>,
    /// Whether a tmpfs begins as a copy of what it hides.
    pub copy_up: bool,
    /// Whether it changes what is mounted there already, instead of mounting something.
    pub remount: bool,
    /// Whether a bind mount's source that is a link is itself what is mounted.
    pub source_nofollow: bool,
    /// Whether a place that is a link is itself mounted over.
    pub destination_nofollow: bool,
    /// Whether ids are mapped, and if so whether for the mounts below, too.
    pub idmap: Option<bool>,
}

impl MountOptions {
    /// Sorts words. Words that mean nothing to us are the file system's own.
    pub fn parse(words: &[String]) -> MountOptions {
        let mut options = MountOptions::default();
        for word in words {
            options.take(word);
        }
        options
    }

    fn take(&mut self, word: &str) {
        let attribute = |word: &str| ATTRIBUTES.iter().find(|(known, _)| *known == word).map(|(_, w)| *w);
        let propagation = |word: &str| PROPAGATIONS.iter().find(|(known, _)| *known == word).map(|(_, p)| *p);
        let stripped = word.strip_prefix('r').unwrap_or("");
        if let Some(word) = attribute(word) {
            self.attributes.take(word);
        } else if let Some(word) = attribute(stripped) {
            self.recursive.take(word);
        } else if let Some(kind) = propagation(word) {
            self.propagation.push((kind, false));
        } else if let Some(kind) = propagation(stripped) {
            self.propagation.push((kind, true));
        } else if SUPERBLOCK.contains(&word) {
            self.superblock.push(word.to_owned());
        } else if WITHOUT_EFFECT.contains(&word) || word.is_empty() {
        } else {
            match word {
                "bind" => self.bind = Some(self.bind.unwrap_or(false)),
                "rbind" => self.bind = Some(true),
                "tmpcopyup" => self.copy_up = true,
                "idmap" => self.idmap = Some(false),
                "ridmap" => self.idmap = Some(true),
                "remount" => self.remount = true,
                "src-nofollow" => self.source_nofollow = true,
                "dest-nofollow" => self.destination_nofollow = true,
                _ => self.data.push(match word.split_once('=') {
                    Some((key, value)) => (key.to_owned(), Some(value.to_owned())),
                    None => (word.to_owned(), None),
                }),
            }
        }
    }
}

/// config.json's `rootfsPropagation`.
///
/// # Errors
/// If it is none of the words.
pub fn rootfs_propagation(word: Option<&str>) -> Result<Option<(Propagation, bool)>, Refused> {
    let Some(word) = word.filter(|w| !w.is_empty()) else { return Ok(None) };
    let mut options = MountOptions::default();
    options.take(word);
    match options.propagation.pop() {
        Some(propagation) => Ok(Some(propagation)),
        None => Err(Refused::Invalid(format!(
            "rootfsPropagation `{word}` is none of private, shared, slave, unbindable, with or without r"
        ))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(words: &str) -> MountOptions {
        let words: Vec<String> = words.split(',').map(str::to_owned).collect();
        MountOptions::parse(&words)
    }

    #[test]
    fn words_are_sorted() {
        let options = parse("rbind,ro,rnosuid,rprivate,noatime,sync,mode=755,newinstance");
        assert_eq!(options.bind, Some(true));
        assert_eq!(options.attributes.set, Attr::MOUNT_ATTR_RDONLY | Attr::MOUNT_ATTR_NOATIME);
        assert_eq!(options.attributes.clear, ATIME_MASK);
        assert_eq!(options.recursive.set, Attr::MOUNT_ATTR_NOSUID);
        assert_eq!(options.propagation, [(Propagation::PRIVATE, true)]);
        assert_eq!(options.superblock, ["sync"]);
        assert_eq!(
            options.data,
            [("mode".to_owned(), Some("755".to_owned())), ("newinstance".to_owned(), None)]
        );
    }

    #[test]
    fn later_words_win_and_words_that_begin_with_r_are_told_apart() {
        let options = parse("ro,rw,relatime,strictatime");
        assert_eq!(options.attributes.set, Attr::MOUNT_ATTR_STRICTATIME);
        assert!(options.attributes.clear.contains(Attr::MOUNT_ATTR_RDONLY));
        assert_eq!(parse("rro").recursive.set, Attr::MOUNT_ATTR_RDONLY);
        assert_eq!(parse("rrw").recursive.clear, Attr::MOUNT_ATTR_RDONLY);
        assert_eq!(parse("bind,rbind").bind, Some(true));
        assert_eq!(parse("rbind,bind").bind, Some(true));
    }

    #[test]
    fn the_propagation_of_the_root_is_one_word() {
        assert_eq!(rootfs_propagation(Some("rslave")).unwrap(), Some((Propagation::DOWNSTREAM, true)));
        assert_eq!(rootfs_propagation(None).unwrap(), None);
        assert!(rootfs_propagation(Some("ro")).is_err());
    }
}
