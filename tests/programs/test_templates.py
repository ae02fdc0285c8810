"""Commands with places for arguments: GNU parallel's, filled in."""

from __future__ import annotations

import shlex
import subprocess

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mpengine.programs.templates import Template

PATH = "/x/a.b/c.tar.gz"


def words(*template, args=("a b",), seq=7, slot=2):
    return Template(template).filler()(seq, slot, args)


@pytest.mark.parametrize(
    ("place", "filled"),
    [
        ("{}", PATH),
        ("{.}", "/x/a.b/c.tar"),
        ("{/}", "c.tar.gz"),
        ("{//}", "/x/a.b"),
        ("{/.}", "c.tar"),
        ("{#}", "7"),
        ("{%}", "2"),
        ("{1}", PATH),
        ("{1/.}", "c.tar"),
        ("{-1//}", "/x/a.b"),
        ("{3}", ""),
        ("-o{/.}.txt", "-oc.tar.txt"),
        ("{0}", "{0}"),
        ("{x}", "{x}"),
        ("{} {#}", f"{PATH} 7"),
    ],
)
def test_each_place_is_filled_as_gnu_parallel_does(place, filled):
    assert words("cmd", place, "{}", args=(PATH,)) == ["cmd", filled, PATH]


@pytest.mark.parametrize(
    ("argument", "stem", "folder"),
    [("c", "c", "."), (".b/c", ".b/c", ".b"), ("/c", "/c", "/"), ("a.b/", "a.b/", "a.b"), (".rc", "", ".")],
)
def test_what_has_no_extension_or_no_folder(argument, stem, folder):
    assert words("cmd", "{.}", "{//}", args=(argument,)) == ["cmd", stem, folder]


def test_a_command_with_no_place_gets_the_arguments_at_its_end():
    assert words("echo", args=("a", "b c")) == ["echo", "a", "b c"]
    assert Template(("echo",), is_line=True).filler()(1, 1, ("a", "b c"))[-1] == "echo a 'b c'"


def test_several_arguments_are_words_where_the_place_stands_alone_and_joined_where_it_does_not():
    assert words("echo", "{}", "<{}>", "{2}", args=("a", "b c")) == ["echo", "a", "b c", "<a b c>", "b c"]


def test_a_program_may_be_an_argument():
    assert words("{}", "--version", args=("git",)) == ["git", "--version"]


@settings(max_examples=30, deadline=None)
@given(st.lists(st.text(st.characters(exclude_characters="\0", exclude_categories=("Cs",))), min_size=1, max_size=3))
def test_no_argument_is_ever_more_than_an_argument_to_the_shell(args):
    template = Template(("printf '%s\\0'",), is_line=True)

    line = template.filler()(1, 1, args)

    assert shlex.split(line[-1]) == ["printf", "%s\\0", *args]


@pytest.mark.parametrize("argument", ["$(echo x)", "`id`", "a; echo b", "'", '"', "a\nb", "-n", "*", ""])
def test_the_shell_itself_agrees(argument):
    line = Template(("printf '<%s>' {}",), is_line=True).filler()(1, 1, (argument,))

    assert subprocess.run(line, capture_output=True, text=True, check=True).stdout == f"<{argument}>"
