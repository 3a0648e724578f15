//! The presets that are part of the programs: every file of `presets/`, in one table.
//!
//! They are compiled in, so that a static binary copied to a bare host knows its distributions, and so that a file
//! that someone left in the current directory cannot pass for one of them.

macro_rules! presets {
    ($($name:literal),* $(,)?) => {
        &[$(($name, include_str!(concat!("../../../presets/", $name, ".toml")))),*]
    };
}

pub(crate) const PRESETS: &[(&str, &str)] = presets![
    "7Ji",
    "arch4edu",
    "archlinux",
    "archlinux32",
    "archlinuxarm",
    "archlinuxcn",
    "archports",
    "archriscv",
    "artix",
    "asahi-alarm",
    "blackarch",
    "cachyos",
    "chaotic-aur",
    "endeavouros",
    "loongarchlinux",
    "manjaro",
    "manjaro-arm",
];

pub(crate) fn find(name: &str) -> Option<&'static str> {
    PRESETS.iter().find(|(known, _)| *known == name).map(|(_, text)| *text)
}
