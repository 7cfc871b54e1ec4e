//! The file, with all that it leaves out → every setting with its value, for who asks a running proxy.
//!
//! Values stand as they are written, with the environment filled in; what comes from a variable whose
//! name says that it is a secret does not.

use toml::Spanned;
use toml::de::{DeTable, DeValue};

use super::env;
use super::keys::{self, Default, Setting, Table};
use super::read::in_order;
use crate::json::Json;

/// What stands for a secret.
const BLANK: &str = "***";

/// What the name of a variable has that holds one.
const SECRETS: [&str; 6] = ["SECRET", "TOKEN", "PASSWORD", "PASSWD", "KEY", "CREDENTIAL"];

/// The settings in effect, table by table.
#[derive(Clone, Debug, PartialEq)]
pub struct Effective(Vec<(&'static str, Json)>);

type Env<'e> = &'e dyn Fn(&str) -> Option<String>;

impl Effective {
    /// Those of a file without faults.
    pub(super) fn of(root: &DeTable<'_>, env: Env<'_>) -> Effective {
        let env = |name: &str| {
            let upper = name.to_ascii_uppercase();
            // Its default too, where it is not set.
            if SECRETS.iter().any(|word| upper.contains(word)) {
                Some(BLANK.to_owned())
            } else {
                env(name)
            }
        };
        let empty = DeTable::new();
        let mut tables = Vec::new();
        // The last of the tables is one of a server, in an upstream.
        for table in &keys::TABLES[..keys::TABLES.len() - 1] {
            let value = root.get(table.key).map(Spanned::get_ref);
            let shown = if table.header.starts_with("[[") {
                let list = value.and_then(DeValue::as_array);
                let tables = list.into_iter().flatten();
                let tables = tables.filter_map(|one| one.get_ref().as_table());
                Json::List(tables.map(|one| settings(table, one, &env)).collect())
            } else if table.header.contains('.') {
                let named = value.and_then(DeValue::as_table).map(in_order);
                let named = named.into_iter().flatten().filter_map(|(name, one)| {
                    Some(Json::Object(vec![
                        ("name", name.get_ref().as_ref().into()),
                        ("settings", settings(table, one.get_ref().as_table()?, &env)),
                    ]))
                });
                Json::List(named.collect())
            } else {
                match value.and_then(DeValue::as_table) {
                    Some(one) => settings(table, one, &env),
                    // Without this table there is no such listener.
                    None if table.key == keys::ADMIN.key => Json::Null,
                    None => settings(table, &empty, &env),
                }
            };
            tables.push((table.key, shown));
        }
        Effective(tables)
    }

    /// As JSON.
    pub fn json(&self) -> Json {
        Json::Object(self.0.clone())
    }

    /// A setting of `[table]` is this, whatever the file says.
    pub fn set(&mut self, table: &str, setting: &'static str, value: impl Into<Json>) {
        if let Some(table) = self.table(table) {
            put(table, setting, &value.into());
        }
    }

    /// The same in each of the upstreams.
    pub fn set_upstreams(&mut self, setting: &'static str, value: &Json) {
        let Some(Json::List(upstreams)) = self.table(keys::UPSTREAMS.key) else {
            return;
        };
        for upstream in upstreams {
            if let Json::Object(members) = upstream {
                for (_, settings) in members.iter_mut().filter(|(name, _)| *name == "settings") {
                    put(settings, setting, value);
                }
            }
        }
    }

    /// It listens at these addresses, whatever the file says, and all clients are served alike.
    pub fn set_listeners(&mut self, addresses: impl Iterator<Item = String>) {
        let listener = |address: String| {
            let mut listener = settings(&keys::LISTENERS, &DeTable::new(), &|_| None);
            put(&mut listener, "address", &address.into());
            listener
        };
        if let Some(listeners) = self.table(keys::LISTENERS.key) {
            *listeners = Json::List(addresses.map(listener).collect());
        }
    }

    /// What takes a restart is as it was in `before`.
    pub fn restart_only_from(&mut self, before: &Effective) {
        for (table, shown) in &before.0 {
            if [keys::ADMIN.key, keys::ACCESS_LOG.key].contains(table) {
                if let Some(now) = self.table(table) {
                    now.clone_from(shown);
                }
            } else if let (true, Json::Object(settings)) = (*table == keys::SERVER.key, shown) {
                for (name, value) in settings.iter().filter(|(name, _)| *name == "workers") {
                    if let Some(Json::Object(now)) = self.table(table) {
                        now.retain(|(other, _)| other != name);
                        now.insert(0, (name, value.clone()));
                    }
                }
            }
        }
    }

    fn table(&mut self, key: &str) -> Option<&mut Json> {
        let mut tables = self.0.iter_mut();
        let found = tables.find(|(table, _)| *table == key);
        found.map(|(_, shown)| shown)
    }
}

/// Every setting of a table, with its value here.
fn settings(table: &'static Table, here: &DeTable<'_>, env: Env<'_>) -> Json {
    let one = |setting: &'static Setting| {
        let written = here
            .iter()
            .find(|(key, _)| setting.is_called(key.get_ref()));
        let shown = match (written, setting.default) {
            (Some((_, written)), _) => shown(value(written.get_ref(), env), false),
            (None, Default::Is(text)) => shown(literal(text), true),
            (None, Default::None(meaning)) => Json::Object(vec![
                ("value", Json::Null),
                ("default", true.into()),
                ("means", meaning.into()),
            ]),
            (None, Default::Required) => shown(Json::Null, true),
        };
        (setting.name, shown)
    };
    Json::Object(table.settings.iter().map(one).collect())
}

fn shown(value: Json, is_default: bool) -> Json {
    Json::Object(vec![("value", value), ("default", is_default.into())])
}

/// Puts a value that is no default into the settings of a table.
fn put(table: &mut Json, setting: &'static str, value: &Json) {
    if let Json::Object(settings) = table {
        for (_, old) in settings.iter_mut().filter(|(name, _)| *name == setting) {
            *old = shown(value.clone(), false);
        }
    }
}

/// A default, as it would stand in the file.
fn literal(text: &str) -> Json {
    let line = format!("it = {text}");
    DeTable::parse(&line).map_or(Json::Null, |table| {
        let it = table.get_ref().get("it");
        it.map_or(Json::Null, |it| value(it.get_ref(), &|_| None))
    })
}

fn value(written: &DeValue<'_>, env: Env<'_>) -> Json {
    match written {
        DeValue::String(text) => env::fill(text, env).unwrap_or_default().into(),
        DeValue::Integer(number) => {
            let digits = i128::from_str_radix(number.as_str(), number.radix());
            match digits.ok().map(u64::try_from) {
                Some(Ok(number)) => number.into(),
                _ => number.to_string().into(),
            }
        }
        DeValue::Float(number) => number.as_str().parse().unwrap_or(f64::NAN).into(),
        DeValue::Boolean(on) => (*on).into(),
        DeValue::Datetime(time) => time.to_string().into(),
        DeValue::Array(list) => {
            Json::List(list.iter().map(|one| value(one.get_ref(), env)).collect())
        }
        DeValue::Table(table) => {
            let all = keys::SERVERS.settings.iter();
            let there = all.filter_map(|setting| {
                let mut here = table.iter();
                let (_, one) = here.find(|(key, _)| setting.is_called(key.get_ref()))?;
                Some((setting.name, value(one.get_ref(), env)))
            });
            let there: Vec<_> = there.collect();
            // A server with its weight; or names of the file's own, with their values.
            if there.len() == table.len() {
                return Json::Object(there);
            }
            let named = in_order(table).into_iter().map(|(name, one)| {
                Json::Object(vec![
                    ("name", name.get_ref().as_ref().into()),
                    ("value", value(one.get_ref(), env)),
                ])
            });
            Json::List(named.collect())
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn effective(text: &str) -> Effective {
        let env = |name: &str| match name {
            "BACKEND" => Some("10.0.0.5:80".to_owned()),
            "API_TOKEN" => Some("hunter2".to_owned()),
            _ => None,
        };
        super::super::parse(text, "test", &env)
            .unwrap()
            .effective
            .unwrap()
    }

    fn read(effective: &Effective) -> serde_json::Value {
        serde_json::from_str(&effective.json().to_string()).unwrap()
    }

    const FILE: &str = "\
        [server]\nworkers = 3\n[client]\nKeepAliveTimeout = \"2s\"\n\
        [[listeners]]\naddress = \":8080\"\n\
        [upstreams.app]\nservers = [\"${BACKEND}\", { address = \"a:1\", weight = 2 }]\n\
        tls_name = \"${API_TOKEN}.example\"\ntls = true\n";

    #[test]
    fn every_setting_is_there_with_its_value_and_whether_it_is_the_default() {
        let all = read(&effective(FILE));
        assert_eq!(
            all["server"]["workers"],
            json!({ "value": 3, "default": false })
        );
        assert_eq!(
            all["server"]["shutdown_timeout"],
            json!({ "value": "30s", "default": true })
        );
        assert_eq!(all["server"]["resolver"]["value"], json!(null));
        assert_eq!(
            all["client"]["keep_alive_timeout"],
            json!({ "value": "2s", "default": false })
        );
        assert_eq!(all["admin"], json!(null));
        let app = &all["upstreams"][0];
        assert_eq!(app["name"], "app");
        assert_eq!(
            app["settings"]["servers"]["value"],
            json!(["10.0.0.5:80", { "address": "a:1", "weight": 2 }])
        );
        for table in &keys::TABLES[..keys::TABLES.len() - 1] {
            let shown = match table.key {
                "upstreams" => &app["settings"],
                "listeners" => &all["listeners"][0],
                "hosts" | "routes" | "admin" | "certificates" => continue,
                key => &all[key],
            };
            for setting in table.settings {
                assert!(
                    shown[setting.name]["default"].is_boolean(),
                    "{}",
                    setting.name
                );
            }
        }
    }

    #[test]
    fn what_comes_from_a_secret_is_blanked() {
        let all = effective(FILE).json().to_string();
        assert!(!all.contains("hunter2"), "{all}");
        assert!(all.contains("***.example"), "{all}");
        let file = FILE.replace("${API_TOKEN}", "${OTHER_TOKEN:-hunter2}");
        let all = effective(&file).json().to_string();
        assert!(!all.contains("hunter2"), "{all}");
    }

    #[test]
    fn what_the_command_line_says_and_what_takes_a_restart_is_shown_as_it_is() {
        let mut now = effective(FILE);
        now.set("server", "workers", 7_u64);
        now.set_upstreams("keep_alive", &false.into());
        now.set_listeners(["127.0.0.1:1".to_owned()].into_iter());
        let all = read(&now);
        assert_eq!(all["server"]["workers"]["value"], 7);
        assert_eq!(
            all["upstreams"][0]["settings"]["keep_alive"]["value"],
            false
        );
        assert_eq!(all["listeners"][0]["address"]["value"], "127.0.0.1:1");
        let mut next = effective(&format!(
            "[admin]\n[access_log]\npath = \"stdout\"\n{}",
            FILE.replace("workers = 3", "workers = 9")
        ));
        next.restart_only_from(&now);
        let next = read(&next);
        assert_eq!(next["server"]["workers"]["value"], 7);
        assert_eq!(next["admin"], json!(null));
        assert_eq!(next["access_log"], read(&now)["access_log"]);
        assert_eq!(next["client"]["keep_alive_timeout"]["value"], "2s");
    }
}
