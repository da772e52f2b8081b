//! Names for containers that were given none: an adjective and something afloat.

const ADJECTIVES: &[&str] = &[
    "able", "agile", "amber", "bold", "brave", "bright", "brisk", "calm", "candid", "clear", "clever",
    "coral", "cosy", "crisp", "deft", "eager", "early", "fair", "fleet", "fond", "free", "fresh", "gentle",
    "glad", "golden", "grand", "happy", "hardy", "honest", "jolly", "keen", "kind", "light", "lively",
    "loyal", "lucid", "lucky", "merry", "mighty", "modest", "neat", "nimble", "noble", "patient", "placid",
    "plucky", "polite", "proud", "quick", "quiet", "ready", "robust", "rosy", "sage", "serene", "sharp",
    "silver", "snug", "sound", "spry", "stable", "steady", "still", "stout", "sturdy", "sunny", "sure",
    "swift", "tidy", "trim", "true", "trusty", "upright", "vivid", "warm", "wise", "witty", "zesty",
];

const VESSELS: &[&str] = &[
    "ark", "barge", "bark", "brig", "canoe", "caravel", "carrack", "catboat", "clipper", "coble", "cog",
    "coracle", "corvette", "curragh", "cutter", "dhow", "dinghy", "dory", "dromon", "felucca", "ferry",
    "fluyt", "frigate", "galleon", "galley", "gig", "gondola", "hoy", "hulk", "jangada", "jolle", "junk",
    "kayak", "ketch", "knarr", "lugger", "nao", "packet", "pinnace", "pirogue", "praam", "proa", "punt",
    "raft", "sampan", "schooner", "scow", "shallop", "skiff", "skipjack", "sloop", "smack", "snow", "tender",
    "tjalk", "trawler", "trireme", "tug", "umiak", "wherry", "xebec", "yacht", "yawl", "yole",
];

/// A name from 8 random bytes, such as `calm_ketch`; after some `attempts`, with a number behind it.
pub(crate) fn from_random(random: u64, attempts: u32) -> String {
    let pick = |list: &[&'static str], number: u64| list[usize::try_from(number).unwrap_or(0) % list.len()];
    let name = format!("{}_{}", pick(ADJECTIVES, random & 0xffff_ffff), pick(VESSELS, random >> 32));
    if attempts < 3 { name } else { format!("{name}{}", random % 10_000) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn made_up_names_are_names() {
        for n in 0..10_000u64 {
            let name = from_random(n.wrapping_mul(0x9e37_79b9_7f4a_7c15), u32::try_from(n % 5).unwrap());
            crate::spec::check_name(&name).unwrap();
        }
    }
}
