"""These are the questions that a page opens with, in the order in which readers ask them."""

from __future__ import annotations

from distillknob.report.opening.answer import Question
from distillknob.report.opening.calibrated import changed
from distillknob.report.opening.evaluated import how_good, subject_title
from distillknob.report.opening.learned import better_method, distillable
from distillknob.report.opening.next_step import next_step
from distillknob.report.opening.traps import in_the_way
from distillknob.report.opening.trust import attacker, trust

DISTILLABLE = Question("Is this pair distillable?", distillable)
IN_THE_WAY = Question("What stands in the way?", in_the_way)
NEXT = Question("What to do next?", next_step, leads=True)
CHANGED = Question("What did calibration change?", changed)
ATTACKER = Question("What would an attacker get?", attacker)
TRUST = Question("Can I trust it?", trust)
BETTER_METHOD = Question("Which method is better?", better_method)
HOW_GOOD = Question(subject_title, how_good)

ALL = (DISTILLABLE, IN_THE_WAY, NEXT, CHANGED, ATTACKER, TRUST)
OF_PRUNING = (NEXT, TRUST)
OF_COMPARISON = (DISTILLABLE, BETTER_METHOD, IN_THE_WAY, NEXT, TRUST)
OF_EVALUATION = (HOW_GOOD, NEXT, TRUST)
OF_ATTACK = (ATTACKER, NEXT, TRUST)
