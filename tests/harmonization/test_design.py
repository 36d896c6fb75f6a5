from __future__ import annotations

import pytest

from custom.harmonization import check_covariates

ROWS = [{"subject": f"s{i}", "Age": 20 + i, "sex": "MF"[i % 2]} for i in range(4)]


def test_covariates_that_are_there_pass():
    check_covariates({"training": [*ROWS, ROWS[0]]}, ["Age", "sex"])


def test_a_covariate_that_no_row_has_is_told_with_the_columns():
    with pytest.raises(ValueError, match="no row of the datalist has the covariate 'age', its columns are subject, Age, sex"):
        check_covariates({"training": ROWS}, ["age"])


def test_what_the_fit_would_refuse_is_refused_before():
    with pytest.raises(ValueError, match="subject s2 has no Age"):
        check_covariates({"training": [*ROWS[:2], {**ROWS[2], "Age": None}, ROWS[3]]}, ["Age"])
