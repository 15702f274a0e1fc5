use super::*;
use crate::{
    run::{Options, run},
    toy::node,
};

/// rows -> base -> cold -> grow[seed=1], grow[seed=2,rate=1e+5] -> report, and `notes` apart.
fn plan(folder: &tempfile::TempDir) -> Plan {
    let nodes = vec![
        node("rows", "load", &[]),
        node("base", "pretrain", &["rows"]),
        node("cold", "sift", &["base", "rows"]),
        node("grow[seed=1]", "grow", &["cold"]),
        node("grow[seed=2,rate=1e+5]", "grow", &["cold"]),
        node("report", "evaluate", &["grow[seed=1]", "grow[seed=2,rate=1e+5]"]),
        node("notes", "load", &[]),
    ];
    Plan { name: "p".into(), root: folder.path().into(), file: "p.yaml".into(), nodes }
}

struct World {
    plan: Plan,
    store: Store,
    _folder: tempfile::TempDir,
}

impl World {
    fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        Self { plan: plan(&folder), store: Store::at(folder.path().join("store")).unwrap(), _folder: folder }
    }

    fn picked(&self, words: &[&str], exclude: &[&str]) -> Result<String, SelectError> {
        let owned = |words: &[&str]| words.iter().map(|word| (*word).to_owned()).collect::<Vec<_>>();
        let picked = self.plan.select(&owned(words), &owned(exclude), &self.store)?;
        // In the plan's order, as a run would come to them.
        let names = self.plan.nodes().iter().map(|node| node.name.as_str()).filter(|name| picked.contains(*name));
        Ok(names.collect::<Vec<_>>().join(" "))
    }

    fn mistake(&self, word: &str) -> String {
        match self.picked(&[word], &[]) {
            Err(SelectError::Unknown { message, hint }) => {
                format!("{} | {}", message.strip_prefix("p.yaml: ").expect("the file"), hint.unwrap_or_default())
            }
            other => panic!("{word}: {other:?}"),
        }
    }

    fn options(&self, words: &[&str], outside: Outside) -> Options {
        let words: Vec<String> = words.iter().map(|word| (*word).to_owned()).collect();
        let nodes = self.plan.select(&words, &[], &self.store).unwrap();
        Options { scope: Some(Scope { nodes, outside }), ..Options::default() }
    }

    fn run(&self, options: &Options) -> String {
        let scope = &options.scope.as_ref().expect("a scope").nodes;
        let report = run(&self.plan.with_needs(scope), &self.store, options);
        report.nodes.iter().map(|node| format!("{} {}", node.node, node.outcome)).collect::<Vec<_>>().join(", ")
    }
}

#[test]
fn selectors_pick_what_dbt_would() {
    let world = World::new();
    let both = "grow[seed=1] grow[seed=2,rate=1e+5]";
    let all = "rows base cold grow[seed=1] grow[seed=2,rate=1e+5] report notes";
    let cases: [(&[&str], &[&str], &str); 21] = [
        (&[], &[], all),
        (&["cold"], &[], "cold"),
        (&["+cold"], &[], "rows base cold"),
        (&["cold+"], &[], &format!("cold {both} report")),
        (&["+cold+"], &[], &format!("rows base cold {both} report")),
        (&["1+cold"], &[], "rows base cold"),
        (&["1+grow+1"], &[], &format!("cold {both} report")),
        (&["2+report+1"], &[], &format!("cold {both} report")),
        (&["0+cold+0"], &[], "cold"),
        // A bare matrix name means all its instances.
        (&["grow"], &[], both),
        (&["grow[seed=1]"], &[], "grow[seed=1]"),
        (&["grow[seed=2,rate=1e+5]"], &[], "grow[seed=2,rate=1e+5]"),
        (&["grow[seed=2,rate=1e+5]+"], &[], "grow[seed=2,rate=1e+5] report"),
        (&["grow[seed=?*"], &[], both),
        (&["*o*"], &[], &format!("rows cold {both} report notes")),
        (&["kind:load"], &[], "rows notes"),
        (&["kind:*t*"], &[], "base cold report"),
        (&["rows notes"], &[], "rows notes"),
        (&["rows", "notes"], &[], "rows notes"),
        (&["base+,+cold"], &[], "base cold"),
        (&["cold+"], &["grow", "rows"], "cold report"),
    ];
    for (words, exclude, expected) in cases {
        assert_eq!(world.picked(words, exclude).unwrap(), expected, "{words:?} without {exclude:?}");
    }
}

#[test]
fn a_word_that_picks_nothing_is_a_mistake_with_a_suggestion() {
    let world = World::new();
    assert_eq!(world.mistake("clod"), "no node `clod` | did you mean `cold`?");
    assert_eq!(world.mistake("+gorw"), "no node `gorw` | did you mean `grow`?");
    assert_eq!(world.mistake("kind:sitf"), "no node of stage `sitf` | did you mean `sift`?");
    assert_eq!(world.mistake("kin:sift"), "nodes cannot be picked by `kin:` | did you mean `kind`?");
    assert_eq!(world.mistake("state:chnged"), "no state `chnged` | did you mean `changed`?");
    assert!(world.mistake("x*").starts_with("no node fits `x*` | the nodes are `rows`, `base`"));
    assert!(world.picked(&[], &["clod"]).is_err());
}

#[test]
fn state_picks_by_what_a_run_would_do() {
    let mut world = World::new();
    assert_eq!(world.picked(&["state:run"], &[]).unwrap(), "rows notes");
    assert_eq!(world.picked(&["state:changed"], &[]).unwrap(), "rows notes");
    let _ = run(&world.plan, &world.store, &Options::default());
    assert_eq!(world.picked(&["state:changed"], &[]).unwrap(), "");
    assert_eq!(world.picked(&["state:reuse,kind:load"], &[]).unwrap(), "rows notes");

    world.plan.nodes[1].seed = 1;
    world.plan.nodes[5].seed = 1;
    assert_eq!(world.picked(&["state:run"], &[]).unwrap(), "base");
    assert_eq!(world.picked(&["state:changed"], &[]).unwrap(), "base report");
    assert_eq!(world.picked(&["state:waits", "notes"], &["grow"]).unwrap(), "cold report notes");
}

#[test]
fn what_was_not_selected_is_never_made() {
    let world = World::new();
    assert_eq!(world.run(&world.options(&["cold"], Outside::Current)), "rows skipped, base skipped, cold skipped");
    assert_eq!(world.run(&world.options(&["+base"], Outside::Current)), "rows made, base made");
    assert_eq!(world.run(&world.options(&["cold"], Outside::Current)), "rows reused, base reused, cold made");
}

#[test]
fn only_takes_the_last_results_of_what_it_needs_even_out_of_date() {
    let mut world = World::new();
    let _ = run(&world.plan, &world.store, &Options::default());
    world.plan.nodes[0].seed = 1;
    world.plan.nodes[2].seed = 1;
    let current = world.options(&["cold"], Outside::Current);
    assert_eq!(world.run(&current), "rows skipped, base skipped, cold skipped");
    assert_eq!(world.run(&world.options(&["cold"], Outside::Last)), "rows reused, base reused, cold made");
}

#[test]
fn a_plan_with_its_needs_keeps_the_order() {
    let world = World::new();
    let plan = world.plan.with_needs(&["grow[seed=1]".to_owned()].into());
    let names: Vec<&str> = plan.nodes().iter().map(|node| node.name.as_str()).collect();
    assert_eq!(names, ["rows", "base", "cold", "grow[seed=1]"]);
}
