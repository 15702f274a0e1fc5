//! What users copy is right: every pipeline, and every plugin by its own tests.

use std::fs;

use crate::project::{Project, shared, workspace};

#[test]
fn every_pipeline_is_right() {
    let mut names: Vec<_> =
        fs::read_dir(workspace().join("pipelines")).unwrap().map(|entry| entry.unwrap().path()).collect();
    names.sort();
    names.retain(|path| path.extension().is_some_and(|extension| extension == "yaml"));
    assert!(!names.is_empty());
    for path in names {
        let reads_data = fs::read_to_string(&path).unwrap().contains("../shared/data");
        if reads_data && shared("").is_none() {
            eprintln!("SKIPPED: {}", path.display());
            continue;
        }
        let output = Project::new(&[]).command("check").arg(&path).arg("--root").arg(workspace()).output().unwrap();
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    }
}

#[test]
fn every_plugin_passes_its_own_tests() {
    let project = Project::of_pipeline("r1_tiny.yaml");
    let said = project.mashbill("test plugins/");
    assert_eq!(said.code, Some(0), "{said:#?}");
    for folder in ["filters", "rewards", "scores", "tasks"] {
        for entry in fs::read_dir(project.path().join("plugins").join(folder)).unwrap() {
            let name = entry.unwrap().file_name().into_string().unwrap();
            let is_tested = said.stdout.lines().any(|line| line.starts_with("passed ") && line.contains(&name));
            assert!(is_tested, "no test of {folder}/{name} in\n{}", said.stdout);
        }
    }
}
