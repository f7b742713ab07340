//! `nodes`, `nodes.show`, `nodes.accept`, `nodes.import`, `nodes.rekey`, `nodes.revoke`.

use fieldpost_sockets::PublicKey;
use fieldpost_wire::Name;
use serde_json::{Value, json};

use super::Hub;
use super::clients::Rights;
use super::nodes::Node;
use super::pipeline::ReplyTo;
use super::requests::{check_origin, how_many_fit};
use super::runs::parse_name;
use crate::protocol::{
    ImportedNode, MOST_ROWS, Nodes as NodesRequest, NodesAccept, NodesImport, NodesRekey,
    NodesRevoke, NodesShow, Refusal,
};
use crate::store::{Change, Key, NodeId, NodeKey, NodeRecord};

/// Cursors of keys that wait start with this; no node's name does.
const PENDING_CURSOR: &str = "~";
/// How long an old key may stay good beside a new one, in milliseconds: 90 days.
const MOST_OVERLAP_MS: u64 = 90 * 24 * 60 * 60 * 1000;

impl Hub {
    pub(super) fn nodes_list(
        &mut self,
        to: &ReplyTo,
        rights: &Rights,
        request: NodesRequest,
    ) -> Result<(), Refusal> {
        let limit = request.limit.clamp(1, MOST_ROWS) as usize;
        let after = request.after.as_deref();
        let pending_after = after.and_then(|cursor| cursor.strip_prefix(PENDING_CURSOR));
        let mut rows = Vec::new();
        if pending_after.is_none() {
            let nodes = self.nodes.after(after).filter(|node| rights.node(node));
            rows.extend(nodes.take(limit).map(|node| self.brief(node)));
            let fit = how_many_fit(&rows);
            if fit < rows.len() || rows.len() >= limit {
                rows.truncate(fit);
                let next = rows.last().map(|row| row["node"].clone());
                self.reply(to, &json!({ "nodes": rows, "pending": [], "next": next }));
                return Ok(());
            }
        }
        // Keys that wait belong to no selector: who is limited does not see them.
        let mut pending: Vec<Value> = Vec::new();
        if rights.all_nodes() {
            let after = pending_after.and_then(Key::read);
            pending.extend(self.nodes.pending(after.as_ref()).take(limit + 1).map(
                |(key, pending)| {
                    json!({
                        "state": "pending", "key": key.as_str(), "claims": pending.claims,
                        "agent": pending.agent, "first_ms": pending.first.0,
                        "heard_ms": pending.heard.0,
                    })
                },
            ));
        }
        let together: Vec<&Value> = rows.iter().chain(&pending).collect();
        let fit = how_many_fit(&together).min(rows.len() + limit) - rows.len();
        let more = fit < pending.len();
        pending.truncate(fit);
        let next = match (more, pending.last()) {
            (false, _) => Value::Null,
            (true, Some(row)) => {
                format!("{PENDING_CURSOR}{}", row["key"].as_str().unwrap_or_default()).into()
            }
            (true, None) => PENDING_CURSOR.into(),
        };
        self.reply(to, &json!({ "nodes": rows, "pending": pending, "next": next }));
        Ok(())
    }

    fn brief(&self, node: &Node) -> Value {
        let record = &node.record;
        let mut notes = Vec::new();
        if record.quarantined.is_some() {
            notes.push("two agents use its key".to_owned());
        }
        if let Some(greeting) = &node.greeting
            && greeting.claims != *record.name
        {
            notes.push(format!("its configuration calls it {}", greeting.claims));
        }
        if let Some(vitals) = &node.vitals
            && !vitals.storage.is_empty()
        {
            notes.push(format!("storage: {}", vitals.storage));
        }
        json!({
            "node": &*record.name,
            "state": node.state(self.time.moment()),
            "groups": record.groups.iter().map(|group| &**group).collect::<Vec<_>>(),
            "heard_ms": node.heard.map(|(_, time)| time.0),
            "agent": node.greeting.as_ref().map(|greeting| &*greeting.agent),
            "outbox_records": node.vitals.as_ref().map(|vitals| vitals.outbox_records),
            "open_runs": node.open.len(),
            "note": notes.join("; "),
        })
    }

    pub(super) fn nodes_show(
        &mut self,
        to: &ReplyTo,
        rights: &Rights,
        request: NodesShow,
    ) -> Result<(), Refusal> {
        let id = self.node_named(&request.node)?;
        let node = self.nodes.get(id);
        if !rights.node(node) {
            return Err(self.node_hidden(rights, id));
        }
        let record = &node.record;
        let version = self.schedules.version(node);
        let mut row = self.brief(node);
        row["keys"] = record
            .keys
            .iter()
            .map(|key| json!({ "key": key.key.as_str(), "until_ms": key.until.map(|u| u.0) }))
            .collect();
        row["accepted_ms"] = record.accepted.0.into();
        row["quarantined_ms"] = record.quarantined.map(|time| time.0).into();
        if let Some(greeting) = &node.greeting {
            row["start"] = greeting.start.to_string().into();
            row["proposed_groups"] = greeting.groups.iter().map(|g| Value::from(&**g)).collect();
            row["jobs"] = greeting
                .jobs
                .iter()
                .flatten()
                .map(|(name, rerun)| json!({ "name": &**name, "rerun": rerun }))
                .collect();
        }
        let held = node.vitals.as_ref().map(|vitals| vitals.schedule);
        let held = held.or(node.greeting.as_ref().map(|greeting| greeting.schedule));
        row["schedule"] = json!({
            "entries": self.schedules.merged(node).len(),
            "counter": version.counter,
            "up_to_date": held.map(|held| self.schedules.is_held(node, held)),
        });
        row["vitals"] = node.vitals.as_ref().map_or(Value::Null, |vitals| vitals.json.clone());
        row["open"] = node.open.iter().take(100).map(|run| Value::from(run.to_string())).collect();
        self.reply(to, &json!({ "node": row }));
        Ok(())
    }

    pub(in crate::hub) fn node_hidden(&self, rights: &Rights, id: NodeId) -> Refusal {
        Refusal::new(
            "not_allowed",
            format!(
                "the client {:?} may not see {}; it is limited to {}",
                rights.name,
                self.nodes.get(id).record.name,
                rights.selectors_in_words()
            ),
        )
    }

    pub(super) fn nodes_accept(
        &mut self,
        to: &ReplyTo,
        rights: &Rights,
        request: NodesAccept,
    ) -> Result<(), Refusal> {
        self.need_store()?;
        check_origin(&request.origin)?;
        let (key, groups) = self.check_node(&request.node, &request.key, &request.groups)?;
        self.accept(&request.node, key, groups);
        self.audit(rights, "nodes.accept", &request.node, "ok", &request.origin);
        self.reply_durably(to, &json!({ "node": &*request.node }));
        Ok(())
    }

    pub(super) fn nodes_import(
        &mut self,
        to: &ReplyTo,
        rights: &Rights,
        request: NodesImport,
    ) -> Result<(), Refusal> {
        self.need_store()?;
        check_origin(&request.origin)?;
        let mut checked: Vec<(Name, Key, Option<Vec<Name>>)> = Vec::new();
        for ImportedNode { node, key, groups } in request.nodes {
            let (key, groups) = self.check_node(&node, &key, &groups)?;
            if let Some(twice) = checked.iter().find(|other| other.0 == node || other.1 == key) {
                return Err(Refusal::new(
                    "exists",
                    format!(
                        "{node} and {} have the same name or key; nothing was imported",
                        twice.0
                    ),
                ));
            }
            checked.push((node, key, groups));
        }
        let count = checked.len();
        for (node, key, groups) in checked {
            self.accept(&node, key, groups);
            self.audit(rights, "nodes.import", &node, "ok", &request.origin);
        }
        self.reply_durably(to, &json!({ "count": count }));
        Ok(())
    }

    /// Whether a key can become this node's.
    fn check_node(
        &self,
        node: &Name,
        key: &str,
        groups: &Option<Vec<String>>,
    ) -> Result<(Key, Option<Vec<Name>>), Refusal> {
        let key = self.check_key(key, Some(node))?;
        let groups = groups
            .as_ref()
            .map(|groups| {
                if groups.len() > fieldpost_wire::limits::GROUPS {
                    let what = format!("{node}: a node is in at most 16 groups");
                    return Err(Refusal::new("bad_request", what));
                }
                groups.iter().map(|group| parse_name(group)).collect::<Result<Vec<_>, _>>()
            })
            .transpose()?;
        if let Some(id) = self.nodes.by_name(node) {
            let record = &self.nodes.get(id).record;
            let holds = record.keys.iter().any(|held| held.key == key);
            if !record.keys.is_empty() && !holds {
                return Err(Refusal::new(
                    "exists",
                    format!(
                        "{node} has another key; `fieldpost nodes rekey` replaces it, or choose \
                         another name"
                    ),
                ));
            }
        }
        Ok((key, groups))
    }

    fn check_key(&self, text: &str, node: Option<&Name>) -> Result<Key, Refusal> {
        let public: PublicKey = text.parse().map_err(|bad| {
            Refusal::new("bad_request", format!("{text:?} is no public key: {bad}"))
        })?;
        let key = Key(public.text());
        if self.clients.knows(key.as_str()) {
            let what = "this key is a client's; a device makes its own (`fieldpost-agent key new`)";
            return Err(Refusal::new("exists", what));
        }
        if let Some(id) = self.nodes.holder(&key) {
            let holder = &self.nodes.get(id).record.name;
            if node != Some(holder) {
                return Err(Refusal::new(
                    "exists",
                    format!("this key is {holder}'s already; each device needs a key of its own"),
                ));
            }
        }
        Ok(key)
    }

    /// A node is in from now on: new, or again.
    fn accept(&mut self, name: &Name, key: Key, groups: Option<Vec<Name>>) {
        let time = self.time.time();
        let before = self.nodes.by_name(name).map(|id| self.nodes.get(id).record.clone());
        let mut record = before.unwrap_or_else(|| NodeRecord {
            id: self.nodes.next_id(),
            name: name.clone(),
            groups: Vec::new(),
            keys: Vec::new(),
            accepted: time,
            quarantined: None,
            regrouped: 0,
        });
        if record.keys.is_empty() {
            record.accepted = time;
        }
        if record.keys.iter().all(|held| held.key != key) {
            record.keys = vec![NodeKey { key, until: None }];
        }
        record.quarantined = None;
        if let Some(mut groups) = groups {
            groups.sort();
            groups.dedup();
            // Who saw it because of these may listen to it still: its subscriptions are judged anew.
            record.groups.retain(|left| !groups.contains(left));
            for client in self.clients.of_groups(&record.groups) {
                self.outputs.cut(&client);
            }
            record.groups = groups;
            record.regrouped = self.schedules.next_counter();
        }
        if self.nodes.pardon(&key) {
            self.pipeline.change(Change::Pardoned(key));
        }
        let id = record.id;
        self.change_node(record);
        // Which of two agents is alive is seen anew.
        self.nodes.get_mut(id).before = None;
        self.schedules_changed(&[id]);
        self.tell_node(id, "accepted", json!({}));
    }

    pub(super) fn change_node(&mut self, record: NodeRecord) {
        self.pipeline.change(Change::Node(record.clone()));
        self.nodes.insert(record);
    }

    pub(super) fn nodes_rekey(
        &mut self,
        to: &ReplyTo,
        rights: &Rights,
        request: NodesRekey,
    ) -> Result<(), Refusal> {
        self.need_store()?;
        check_origin(&request.origin)?;
        let id = self.node_named(&request.node)?;
        let name = self.nodes.get(id).record.name.clone();
        let key = self.check_key(&request.key, Some(&name))?;
        if request.overlap_ms > MOST_OVERLAP_MS {
            let what = "overlap_ms: at most 90 days; an old key that stays is a key too many";
            return Err(Refusal::new("bad_request", what));
        }
        let mut record = self.nodes.get(id).record.clone();
        if record.keys.iter().any(|held| held.key == key && held.until.is_none()) {
            let what = format!("{name} has this key already; nothing to do");
            return Err(Refusal::new("exists", what));
        }
        let until = self.time.for_ages().plus_ms(request.overlap_ms);
        record.keys.retain(|held| held.key != key);
        for held in &mut record.keys {
            held.until = Some(held.until.map_or(until, |before| before.min(until)));
        }
        record.keys.push(NodeKey { key, until: None });
        record.quarantined = None;
        if self.nodes.pardon(&key) {
            self.pipeline.change(Change::Pardoned(key));
        }
        self.change_node(record);
        self.nodes.get_mut(id).before = None;
        if request.overlap_ms == 0 {
            // It is a person's word, whatever the clocks say.
            let held = self.nodes.get(id).record.keys.clone();
            for old in held.iter().filter(|held| held.key != key) {
                self.revoke(old.key);
            }
        }
        self.expire_keys();
        self.audit(rights, "nodes.rekey", &name, "ok", &request.origin);
        let until_ms = (request.overlap_ms > 0).then_some(until.0);
        self.reply_durably(to, &json!({ "node": &*name, "old_until_ms": until_ms }));
        Ok(())
    }

    pub(super) fn nodes_revoke(
        &mut self,
        to: &ReplyTo,
        rights: &Rights,
        request: NodesRevoke,
    ) -> Result<(), Refusal> {
        self.need_store()?;
        check_origin(&request.origin)?;
        let (place, keys) = match (&request.node, &request.key) {
            (Some(node), None) => {
                let id = self.node_named(node)?;
                let record = &self.nodes.get(id).record;
                (node.clone(), record.keys.iter().map(|key| key.key).collect::<Vec<_>>())
            }
            (None, Some(text)) => {
                let public: PublicKey = text.parse().map_err(|bad| {
                    Refusal::new("bad_request", format!("{text:?} is no public key: {bad}"))
                })?;
                let key = Key(public.text());
                if self.clients.knows(key.as_str()) {
                    let what = "this key is a client's: take its [[client]] block out of the \
                                hub's configuration, and reload it (SIGHUP)";
                    return Err(Refusal::new("bad_request", what));
                }
                (text.clone(), vec![key])
            }
            _ => {
                let what = "either node or key says what is revoked";
                return Err(Refusal::new("bad_request", what));
            }
        };
        for key in &keys {
            self.revoke(*key);
        }
        self.audit(rights, "nodes.revoke", &place, "ok", &request.origin);
        self.reply_durably(to, &json!({ "count": keys.len() }));
        Ok(())
    }

    fn revoke(&mut self, key: Key) {
        if let Some(id) = self.nodes.holder(&key) {
            let mut record = self.nodes.get(id).record.clone();
            record.keys.retain(|held| held.key != key);
            self.change_node(record);
            self.tell_node(id, "revoked", json!({}));
        }
        self.pipeline.change(Change::Revoked(key));
        self.nodes.revoke(key);
        self.outputs.cut(key.as_str());
    }

    /// Old keys whose overlap is over go.
    pub(super) fn expire_keys(&mut self) {
        // It can't be taken back: a clock that may be ahead is no reason.
        if self.upkeep.doubts(self.time.moment()) {
            return;
        }
        for (_, key) in self.nodes.overdue_keys(self.time.for_ages()) {
            self.revoke(key.key);
        }
    }
}
