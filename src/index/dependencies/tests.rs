use proptest::prelude::*;

use super::*;

fn reduced(text: &str, flags: &str) -> Result<String, DependenciesError> {
    Dependencies::reduce(text, TokenKind::Atom, &UseFlags::of(flags)).map(Dependencies::as_portage)
}

fn simplest(text: &str, flags: &str) -> Result<String, DependenciesError> {
    Dependencies::reduce(text, TokenKind::Atom, &UseFlags::of(flags)).map(Dependencies::simplest)
}

#[test]
fn conditionals_are_replaced_by_what_holds() {
    for (text, expected) in [
        ("", ""),
        (" a/b\n\tc/d ", "a/b c/d"),
        ("on? ( a/b ) off? ( a/c ) !on? ( a/d ) !off? ( a/e )", "a/b a/e"),
        ("on? ( !off? ( a/b ( on? ( a/c ) ) ) )", "a/b a/c"),
        ("|| ( on? ( a/b ) off? ( a/c ) )", "a/b"),
        ("|| ( on? ( a/b a/c ) a/d )", "|| ( ( a/b a/c ) a/d )"),
        ("|| ( off? ( a/b ) )", EMPTY_ANY_OF),
        ("|| ( a/b || ( off? ( a/c ) ) )", "|| ( a/b ( __const__/empty-any-of ) )"),
        ("|| ( || ( a/b a/c ) ( || ( a/d a/e ) ) )", "|| ( a/b a/c a/d a/e )"),
        ("|| ( ( a/b ) )", "a/b"),
        ("|| ( ( a/b a/c ) )", "a/b a/c"),
        ("!a/b !!>=a/c-1:0/2=", "!a/b !!>=a/c-1:0/2="),
    ] {
        assert_eq!(reduced(text, "on x"), Ok(expected.to_owned()), "{text}");
    }
}

#[test]
fn use_dependencies_are_evaluated() {
    for (atom, expected) in [
        ("a/b[on?,off?,!on?,!off?]", "a/b[on,-off]"),
        ("a/b[on=,off=,!on=,!off=]", "a/b[on,-off,-on,off]"),
        ("a/b:0/1=[off(+)?]", "a/b:0/1="),
        ("!!>=a/b-1:=[on(-)=,-x,y(+)]", "!!>=a/b-1:=[on(-),-x,y(+)]"),
        ("a/b::repo[on?]", "a/b[on]"),
        ("a/b:0::repo[off?]", "a/b:0"),
        ("a/b::repo[-on]", "a/b::repo[-on]"),
        ("a/b[!on]", "a/b[!on]"),
        ("a/b[-on?]", "a/b[-on?]"),
        ("a/b[on?,]", "a/b[on?,]"),
        ("a/b[on?x", "a/b[on?x"),
        ("a?[off?]", "a?[off?]"),
        ("([off?]", "([off?]"),
        ("x::a/b[off?]", "x::a/b[off?]"),
    ] {
        assert_eq!(reduced(atom, "on"), Ok(expected.to_owned()), "{atom}");
    }
    let plain = Dependencies::reduce("x[on=]", TokenKind::Plain, &UseFlags::of("on")).unwrap();
    assert_eq!(plain.as_portage(), "x[on=]");
}

#[test]
fn malformed_texts_are_told_apart() {
    for (text, error) in [
        ("a/b )", DependenciesError::Unopened),
        ("( a/b", DependenciesError::Unclosed),
        ("on? ( )", DependenciesError::Empty),
        ("|| a/b", DependenciesError::NoGroup),
        ("on? )", DependenciesError::NoGroup),
        ("on? || ( a/b )", DependenciesError::NoGroup),
        ("a/b ||", DependenciesError::NoGroup),
        ("-on? ( a/b )", DependenciesError::Flag),
        ("!? ( a/b )", DependenciesError::Flag),
        ("a/b -> c", DependenciesError::Arrow),
    ] {
        assert_eq!(reduced(text, ""), Err(error), "{text}");
    }
    let nested = |depth| format!("{}a/b{}", "( ".repeat(depth), " )".repeat(depth));
    assert_eq!(reduced(&nested(MAX_DEPTH), ""), Ok("a/b".to_owned()));
    assert_eq!(reduced(&nested(MAX_DEPTH + 1), ""), Err(DependenciesError::TooDeep));
    assert!(reduced(&"a/b ".repeat(MAX_WORDS), "").is_ok());
    assert_eq!(reduced(&"a/b ".repeat(MAX_WORDS + 1), ""), Err(DependenciesError::TooLong));
}

#[test]
fn the_forms_of_several_versions_have_one_simplest_form() {
    let raw = "|| ( ( a/b || ( ( a/c a/d ) ) ) a/e )";
    let (newer, older) = ("|| ( ( a/b ( a/c a/d ) ) a/e )", "|| ( ( a/b a/c a/d ) a/e )");
    assert_eq!(reduced(raw, ""), Ok(newer.to_owned()));
    for text in [raw, newer, older] {
        assert_eq!(simplest(text, ""), Ok(older.to_owned()));
    }
}

/// Dependency strings of a few flags, up to eight brackets deep.
fn texts() -> impl Strategy<Value = String> {
    let atom = "(!{0,2}(>=)?[xy]/[pq](-1)?(:0|:=|:0/1=|:\\*)?(\\[!?[a-d](\\(\\+\\))?[=?]\\]|\\[-?[a-d]\\])?)";
    atom.prop_recursive(8, 60, 4, |inner| {
        let list = prop::collection::vec(inner, 1..4).prop_map(|items| items.join(" "));
        let open = prop::sample::select(vec!["", "|| ", "a? ", "!a? ", "b? ", "!b? ", "c? ", "!d? "]);
        (open, list.clone()).prop_map(|(open, list)| format!("{open}( {list} )")).boxed().prop_union(list.boxed())
    })
}

proptest! {
    #[test]
    fn the_simplest_form_of_any_form_is_the_same(text in texts(), flags in "a? b? c? d?") {
        let simple = simplest(&text, &flags).unwrap();
        prop_assert_eq!(&simplest(&reduced(&text, &flags).unwrap(), &flags).unwrap(), &simple);
        prop_assert_eq!(&simplest(&simple, &flags).unwrap(), &simple);
        // Without conditionals, the flags do not matter.
        prop_assert_eq!(&simplest(&simple, "").unwrap(), &simple);
        prop_assert_eq!(simple.matches('(').count(), simple.matches(')').count());
    }

    #[test]
    fn no_text_makes_it_panic(text in "([()|?!a /\\[\\]=,:\\-]|\\( |\\|\\| |a\\? |\\) |\\PC){0,60}", flags in "[a ]{0,4}") {
        let reduced = reduced(&text, &flags);
        prop_assert_eq!(reduced.is_ok(), simplest(&text, &flags).is_ok());
    }
}
