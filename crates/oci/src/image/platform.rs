//! Platforms as people write them: `linux/amd64`, `linux/arm/v7`, `arm64`.

use std::fmt;
use std::str::FromStr;

use super::Platform;

/// A text that is no platform.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
#[error("invalid platform `{text}`: it should look like `linux/amd64` or `linux/arm/v7`")]
pub struct InvalidPlatform {
    /// The text.
    pub text: String,
}

/// `os`, `architecture` or both: one word is an operating system only if it is known as one.
const SYSTEMS: [&str; 6] = ["linux", "windows", "darwin", "freebsd", "netbsd", "openbsd"];

impl FromStr for Platform {
    type Err = InvalidPlatform;

    fn from_str(text: &str) -> Result<Platform, InvalidPlatform> {
        let invalid = || InvalidPlatform { text: text.chars().take(100).collect() };
        let parts: Vec<&str> = text.split('/').collect();
        let plain = |part: &&str| {
            !part.is_empty() && part.bytes().all(|b| b.is_ascii_alphanumeric() || b"_-.".contains(&b))
        };
        if !parts.iter().all(plain) {
            return Err(invalid());
        }
        let host = Platform::host();
        let (os, architecture, variant) = match parts[..] {
            [os] if SYSTEMS.contains(&os.to_ascii_lowercase().as_str()) => {
                (os, host.architecture.as_str(), None)
            }
            [architecture] => ("linux", architecture, None),
            [os, architecture] => (os, architecture, None),
            [os, architecture, variant] => (os, architecture, Some(variant)),
            _ => return Err(invalid()),
        };
        let (architecture, variant) = normal(architecture, variant);
        let os = os.to_ascii_lowercase();
        Ok(Platform { architecture, os, variant, ..Platform::default() })
    }
}

/// The names that Go has for what others call otherwise; a variant that is what the architecture means anyway goes.
fn normal(architecture: &str, variant: Option<&str>) -> (String, Option<String>) {
    let architecture = architecture.to_ascii_lowercase();
    let variant = variant.map(str::to_ascii_lowercase);
    let (architecture, variant) = match (architecture.as_str(), variant.as_deref()) {
        ("x86_64" | "x86-64" | "amd64", None | Some("v1")) => ("amd64", None),
        ("x86_64" | "x86-64" | "amd64", Some(other)) => ("amd64", Some(other)),
        ("i386" | "386", _) => ("386", None),
        ("aarch64" | "arm64", None | Some("8" | "v8")) => ("arm64", None),
        ("aarch64" | "arm64", Some(other)) => ("arm64", Some(other)),
        ("armhf", _) | ("arm", None | Some("7")) => ("arm", Some("v7")),
        ("armel", _) | ("arm", Some("6")) => ("arm", Some("v6")),
        ("arm", Some("5")) => ("arm", Some("v5")),
        (other, variant) => (other, variant),
    };
    (architecture.to_owned(), variant.map(str::to_owned))
}

impl fmt::Display for Platform {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.os, self.architecture)?;
        match &self.variant {
            Some(variant) => write!(f, "/{variant}"),
            None => Ok(()),
        }
    }
}

impl Platform {
    /// Whether an image of this platform is one for `wanted`: what either leaves open fits anything.
    pub fn fits(&self, wanted: &Platform) -> bool {
        let same = |a: &str, b: &str| a.is_empty() || b.is_empty() || a == b;
        let ours = normal(&self.architecture, self.variant.as_deref());
        let theirs = normal(&wanted.architecture, wanted.variant.as_deref());
        same(&self.os, &wanted.os)
            && same(&ours.0, &theirs.0)
            && match (&ours.1, &theirs.1) {
                (Some(a), Some(b)) => a == b,
                _ => true,
            }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn platforms_are_read_as_people_write_them() {
        for (text, expected) in [
            ("linux/amd64", "linux/amd64"),
            ("linux/x86_64", "linux/amd64"),
            ("arm64", "linux/arm64"),
            ("linux/arm64/v8", "linux/arm64"),
            ("linux/arm", "linux/arm/v7"),
            ("linux/arm/v6", "linux/arm/v6"),
            ("Linux/AArch64", "linux/arm64"),
            ("windows/amd64", "windows/amd64"),
        ] {
            assert_eq!(text.parse::<Platform>().unwrap().to_string(), expected);
        }
        assert_eq!("linux".parse::<Platform>().unwrap(), Platform::host());
        for bad in ["", "/", "linux/", "linux/a b", "a/b/c/d", "linux//v7"] {
            assert!(bad.parse::<Platform>().is_err(), "{bad}");
        }
    }

    #[test]
    fn what_is_left_open_fits() {
        let platform = |text: &str| text.parse::<Platform>().unwrap();
        assert!(platform("linux/arm64").fits(&platform("linux/arm64/v8")));
        assert!(Platform::default().fits(&platform("linux/amd64")));
        assert!(!platform("linux/arm/v6").fits(&platform("linux/arm/v7")));
        assert!(!platform("linux/amd64").fits(&platform("linux/arm64")));
    }
}
