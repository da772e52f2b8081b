//! Which image of an index is for a machine.
//!
//! Variants of a CPU are steps: a machine runs its own and the lower ones, the highest is the best. Without a variant
//! `arm` means v7, `arm64` v8, and `amd64` v1, as with containerd.

use sampan_oci::image::{Descriptor, Platform};

/// A text that names no platform.
#[derive(Debug, thiserror::Error)]
#[error("`{text}` is not a platform: expected os/architecture[/variant], such as linux/arm64")]
pub struct InvalidPlatform {
    text: String,
}

/// Reads `linux/arm64`, `linux/arm/v7`, `arm64` or `linux`.
///
/// # Errors
/// If it is none of these.
pub fn parse_platform(text: &str) -> Result<Platform, InvalidPlatform> {
    let invalid = || InvalidPlatform { text: text.chars().take(100).collect() };
    let word = |w: &&str| {
        !w.is_empty()
            && w.len() <= 64
            && w.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'_' | b'-' | b'.'))
    };
    let parts: Vec<String> = text.split('/').map(str::to_ascii_lowercase).collect();
    if parts.len() > 3 || !parts.iter().map(String::as_str).all(|p| word(&p)) {
        return Err(invalid());
    }
    let host = Platform::host();
    let (os, architecture, variant) = match parts.as_slice() {
        [one] if matches!(one.as_str(), "linux" | "windows" | "darwin" | "freebsd") => {
            (one.clone(), host.architecture, None)
        }
        [architecture] => (host.os, architecture.clone(), None),
        [os, architecture] => (os.clone(), architecture.clone(), None),
        [os, architecture, variant] => (os.clone(), architecture.clone(), Some(variant.clone())),
        _ => return Err(invalid()),
    };
    let (architecture, implied) = match architecture.as_str() {
        "x86_64" | "x86-64" => ("amd64".to_owned(), None),
        "aarch64" => ("arm64".to_owned(), None),
        "i386" | "i686" => ("386".to_owned(), None),
        "armhf" => ("arm".to_owned(), Some("v7".to_owned())),
        "armel" => ("arm".to_owned(), Some("v6".to_owned())),
        _ => (architecture, None),
    };
    Ok(Platform { architecture, os, variant: variant.or(implied), ..Platform::default() })
}

/// How a platform is shown: `linux/arm/v7`.
pub fn show_platform(platform: &Platform) -> String {
    let variant = platform.variant.as_ref().map(|v| format!("/{v}")).unwrap_or_default();
    crate::error::clean(&format!("{}/{}{variant}", platform.os, platform.architecture))
}

/// Whether an image for `has` is what was asked for by `wanted`, and how well: the higher the better.
pub fn fits(has: &Platform, wanted: &Platform) -> Option<u32> {
    if has.os != wanted.os || has.architecture != wanted.architecture {
        return None;
    }
    let step = |p: &Platform| -> Option<u32> {
        let default = match p.architecture.as_str() {
            "arm" => "v7",
            "arm64" => "v8",
            _ => "v1",
        };
        let text = p.variant.as_deref().filter(|v| !v.is_empty()).unwrap_or(default);
        text.strip_prefix('v')?.split('.').next()?.parse().ok()
    };
    match (step(has), step(wanted)) {
        (Some(has), Some(wanted)) => (has <= wanted).then_some(has + 1),
        // Variants that are not steps must be the same.
        _ => (has.variant == wanted.variant).then_some(1),
    }
}

/// The manifest of an index that is for `wanted`; the first of equally good ones.
pub fn choose<'a>(manifests: &'a [Descriptor], wanted: &Platform) -> Option<&'a Descriptor> {
    let mut best: Option<(u32, &Descriptor)> = None;
    for descriptor in manifests.iter().filter(|d| is_image(d)) {
        // One without a platform serves where nothing says more.
        let score = match &descriptor.platform {
            Some(platform) => fits(platform, wanted),
            None => Some(0),
        };
        if let Some(score) = score
            && best.is_none_or(|(s, _)| score > s)
        {
            best = Some((score, descriptor));
        }
    }
    best.map(|(_, descriptor)| descriptor)
}

/// Whether an entry of an index is an image: signatures and attestations may be there, too.
pub(crate) fn is_image(descriptor: &Descriptor) -> bool {
    let unknown = descriptor.platform.as_ref().is_some_and(|p| p.os == "unknown" && p.architecture == "unknown");
    let attestation = descriptor.annotations.contains_key("vnd.docker.reference.type");
    !unknown && !attestation && !descriptor.other.contains_key("artifactType")
}

#[cfg(test)]
mod tests {
    use super::*;
    use sampan_base::Digest;
    use sampan_oci::image::media;

    /// `platforms` are those of an index in order; the answer is the number of the chosen one.
    fn chosen(platforms: &[&str], wanted: &str) -> Option<usize> {
        let entry = |(n, text): (usize, &&str)| {
            let mut descriptor = Descriptor::new(media::MANIFEST, Digest::of(&[n as u8]), 1);
            descriptor.platform = match *text {
                "-" => None,
                "unknown" => Some(Platform {
                    os: "unknown".to_owned(),
                    architecture: "unknown".to_owned(),
                    ..Platform::default()
                }),
                text => Some(parse_platform(text).unwrap()),
            };
            descriptor
        };
        let manifests: Vec<_> = platforms.iter().enumerate().map(entry).collect();
        let found = choose(&manifests, &parse_platform(wanted).unwrap())?;
        manifests.iter().position(|m| m == found)
    }

    #[test]
    fn the_nearest_variant_is_chosen() {
        let all = ["linux/amd64", "linux/arm/v5", "linux/arm/v7", "linux/arm64/v8", "linux/amd64/v3", "unknown"];
        assert_eq!(chosen(&all, "linux/amd64"), Some(0));
        assert_eq!(chosen(&all, "linux/amd64/v4"), Some(4));
        assert_eq!(chosen(&all, "linux/arm"), Some(2));
        assert_eq!(chosen(&all, "linux/arm/v6"), Some(1));
        assert_eq!(chosen(&all, "linux/arm64"), Some(3));
        assert_eq!(chosen(&all, "aarch64"), Some(3));
        assert_eq!(chosen(&all, "linux/s390x"), None);
        assert_eq!(chosen(&["linux/arm/v7"], "linux/arm/v6"), None);
        assert_eq!(chosen(&["-", "linux/arm64"], "linux/amd64"), Some(0));
        assert_eq!(chosen(&["unknown"], "linux/amd64"), None);
        assert_eq!(chosen(&["windows/amd64"], "linux/amd64"), None);
    }

    #[test]
    fn what_is_no_platform_is_refused() {
        for bad in ["", "a/b/c/d", "linux/", "linux/a b", "/amd64"] {
            assert!(parse_platform(bad).is_err(), "{bad}");
        }
        assert_eq!(show_platform(&parse_platform("x86_64").unwrap()), "linux/amd64");
        assert_eq!(show_platform(&parse_platform("Linux/armhf").unwrap()), "linux/arm/v7");
    }
}
