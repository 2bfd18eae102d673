"""The picture of the paper's Fig. 1 shows what `theory.mean_square_error_illustration` computes."""

import numpy as np
import pytest

from metacontrast.plots.theory import draw_illustration


def test_bars_are_the_outputs_and_dashes_the_targets():
    support, query = np.array([[1.0, 0.1], [0.3, 0.9]]), np.array([0.5, 0.6])
    outputs = support @ query
    figure = draw_illustration(support, query, outputs, np.array([0.1, -0.2]), own=0)
    plane, bars = figure.axes
    assert [bar.get_height() for bar in bars.patches[:2]] == pytest.approx(outputs.tolist())
    assert [dash.get_segments()[0][0][1] for dash in bars.collections] == [1, 0]
    texts = " ".join(text.get_text() for text in plane.texts)
    assert "class 1" in texts
    assert "w$_{2}$" in texts or "w$_2$" in texts
