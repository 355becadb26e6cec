//! The engines of this release. Each folder registers itself: its driver, and what an owner may set of it.

use std::collections::BTreeMap;
use std::path::Path;

use holdfast_core::engine::EngineKind;

use crate::{Driver, ENGINES};

/// What an engine's folder says of itself.
pub(crate) struct Engine {
    pub kind: EngineKind,
    /// Makes the driver; the engine's programs lie below the folder.
    pub driver: fn(&Path, &DriverSettings) -> Box<dyn Driver>,
    pub settings: &'static [Setting],
}

/// Something of an engine's that the owner of an agent may set, for all its services of the kind.
#[derive(Debug)]
pub struct Setting {
    /// Unique among all settings of `serve`; begins with the engine's name, or says what it is about.
    pub key: &'static str,
    /// In a sentence, with what the values do.
    pub meaning: &'static str,
    pub default: &'static str,
    /// Why a text is no value of it, as the end of a sentence that begins with the key.
    pub check: fn(&str) -> std::result::Result<(), String>,
}

/// The settings of all engines.
pub fn settings() -> impl Iterator<Item = &'static Setting> {
    ENGINES.iter().flat_map(|engine| engine.settings)
}

/// What an agent's owner says about its engines: checked values, defaults for the rest.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct DriverSettings(BTreeMap<&'static str, String>);

impl DriverSettings {
    /// Sets one.
    ///
    /// # Errors
    /// No engine has such a setting, or the text is no value of it; a sentence for people.
    pub fn set(&mut self, key: &str, value: &str) -> std::result::Result<(), String> {
        let setting = settings().find(|setting| setting.key == key);
        let setting = setting.ok_or_else(|| format!("no engine has a setting {key:?}"))?;
        (setting.check)(value).map_err(|why| format!("{key} {why}"))?;
        self.0.insert(setting.key, value.to_owned());
        Ok(())
    }

    /// Those that were set.
    pub fn all(&self) -> impl Iterator<Item = (&'static str, &str)> {
        self.0.iter().map(|(key, value)| (*key, value.as_str()))
    }

    /// The value of a setting, or its default.
    pub(crate) fn get(&self, setting: &Setting) -> &str {
        self.0.get(setting.key).map_or(setting.default, String::as_str)
    }
}

/// The driver of each engine that this release has one for; their programs lie below `engines_dir`.
#[must_use]
pub fn drivers(engines_dir: &Path, settings: &DriverSettings) -> BTreeMap<EngineKind, Box<dyn Driver>> {
    ENGINES.iter().map(|engine| (engine.kind, (engine.driver)(engines_dir, settings))).collect()
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    #[test]
    fn every_engine_that_is_offered_has_a_driver_and_no_other() {
        let offered: BTreeSet<_> =
            EngineKind::ALL.into_iter().filter(|kind| kind.capability().available).collect();
        assert_eq!(ENGINES.iter().map(|engine| engine.kind).collect::<BTreeSet<_>>(), offered);
    }

    /// What an engine needs beside its driver, so that nobody can forget it.
    #[test]
    fn every_engine_has_a_page_and_an_installer() {
        let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("../..");
        for engine in ENGINES {
            for file in
                [format!("docs/engines/{}.md", engine.kind), format!("scripts/engines/{}.sh", engine.kind)]
            {
                assert!(root.join(&file).is_file(), "{file} is missing");
            }
        }
    }

    #[test]
    fn a_default_is_a_value_and_keys_are_unique() {
        let mut keys = BTreeSet::new();
        for setting in settings() {
            assert_eq!((setting.check)(setting.default), Ok(()), "{}", setting.key);
            assert!((setting.check)("no value of anything").is_err(), "{}", setting.key);
            assert!(keys.insert(setting.key), "{} is there twice", setting.key);
            assert!(!setting.meaning.is_empty());
        }
        let mut settings = DriverSettings::default();
        assert_eq!(settings.set("nothing", "1"), Err("no engine has a setting \"nothing\"".to_owned()));
        assert!(
            settings.set("mongodb_oplog_mib", "0").expect_err("too small").starts_with("mongodb_oplog_mib ")
        );
        settings.set("mongodb_oplog_mib", "7").expect("a value");
        assert_eq!(settings.all().collect::<Vec<_>>(), [("mongodb_oplog_mib", "7")]);
    }
}
