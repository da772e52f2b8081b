//! Which image of an index is for a machine.
//!
//! Variants of a CPU are steps: a machine runs its own and the lower ones, the highest is the best. Without a variant
//! `arm` means v7, `arm64` v8, and `amd64` v1, as with containerd.

use sampan_oci::image::{Descriptor, Platform};

/// How an untrusted platform is shown.
pub(crate) fn show(platform: &Platform) -> String {
    crate::error::clean(&platform.to_string())
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
    let unknown =
        descriptor.platform.as_ref().is_some_and(|p| p.os == "unknown" && p.architecture == "unknown");
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
                text => Some(text.parse().unwrap()),
            };
            descriptor
        };
        let manifests: Vec<_> = platforms.iter().enumerate().map(entry).collect();
        let found = choose(&manifests, &wanted.parse().unwrap())?;
        manifests.iter().position(|m| m == found)
    }

    #[test]
    fn the_nearest_variant_is_chosen() {
        let all =
            ["linux/amd64", "linux/arm/v5", "linux/arm/v7", "linux/arm64/v8", "linux/amd64/v3", "unknown"];
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
}
