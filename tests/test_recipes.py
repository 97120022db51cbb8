"""The cells of README, gallery and recipes, as they stand there.

They run below the page, which has the reference's weights and 500 test digits. To add one, add a row to
CELLS.
"""

import re
import subprocess
import sys

import matplotlib.pyplot as plt
import numpy as np
import pytest
from PIL import Image

from helpers import GALLERY, README, RECIPES, WEIGHTS, Page, block, edited, inside, kl_divergence, write_mnist


@pytest.fixture(scope='module')
def drawn_page(mnist, tmp_path_factory):
    """The page after a run with the reference's weights; each cell of the documents runs below it."""
    folder = tmp_path_factory.mktemp('recipes')
    write_mnist(folder, mnist, 100, 500)
    np.save(folder / 'new_images.npy', mnist['x_test'][:10])
    page = Page(folder, no_epochs=0, weights=str(WEIGHTS)).run()
    plt.close('all')
    return page


def shown():
    """The image that was drawn last, or the first one of several."""
    return np.squeeze(plt.gcf().axes[0].images[0].get_array())


def in_a_row(images):
    return np.hstack(images)[..., 0]


def legend():
    return ''.join(text.get_text() for text in plt.gca().get_legend().get_texts())


def frames(file):
    with Image.open(file) as animation:
        return animation.n_frames


# What the rows call, besides the page's names
CHECKS = {check.__name__: check for check in (shown, in_a_row, legend, frames, kl_divergence)}

# The document, a text that the block has, and what must hold after it
CELLS = [
    (README, 'normal(size=(10', 'np.allclose(shown(), in_a_row(decoder.predict(points)), atol=1e-5)'),
    (README, 'input_test[:10]', '0.01 < np.abs(decoded - input_test[:10]).mean() < 0.1'),
    (README, 'new_images', 'np.allclose(points, encoder.predict(input_test[:10])[0], atol=1e-5)'),
    (RECIPES, '[30.0, 30.0]', 'np.allclose(shown(), in_a_row(decoder.predict(points)), atol=1e-5)'),
    (RECIPES, 'test_kl = ', 'np.isclose(test_kl, kl_divergence(test_mu, test_sigma))'),
    (RECIPES, 'oddest = ', 'shown().shape == (28, 280) and sum(errors > errors[oddest].min()) == 9'),
    (RECIPES, 'np.unique(target_test)', "legend() == '0123456789'"),
    (RECIPES, 'FuncAnimation', "frames('walk.gif') == 32 and Path('walk.gif').stat().st_size < 400_000"),
    (GALLERY, 'plt.axis', 'plt.gcf().axes[0].axis() == (-4, 4, -4, 4)'),
]


@pytest.mark.parametrize('document, text, holds', [pytest.param(*row, id=row[1]) for row in CELLS])
def test_cell(drawn_page, document, text, holds):
    drawn_page.run_code(block(document, text))
    with inside(drawn_page.folder):
        assert eval(holds, {**drawn_page.names, **CHECKS})


def test_the_line_of_the_first_experiment(drawn_page):
    """The line within the text of the README."""
    (line,) = re.findall(r'`(plt\.imshow\(decoder\.predict\(.*\)\[0\]\))`', README.read_text())
    drawn_page.run_code(line)
    assert shown().shape == (28, 28)


def test_encoder_and_decoder_in_another_program(drawn_page):
    drawn_page.run_code(block(RECIPES, "decoder.save('decoder.h5')"))
    program = block(RECIPES, "load_model('encoder.h5'") + 'np.savez("results.npz", points, images)'
    program = edited(program, 'np.zeros((1, 28, 28, 1))', "np.load('input.npy')")
    np.save(drawn_page.folder / 'input.npy', drawn_page['input_test'][:5])
    subprocess.run([sys.executable, '-c', program], cwd=drawn_page.folder, check=True, capture_output=True)
    with np.load(drawn_page.folder / 'results.npz') as results:
        points, images = results['arr_0'], results['arr_1']
    np.testing.assert_allclose(
        points, drawn_page['encoder'].predict(drawn_page['input_test'][:5])[0], atol=1e-4
    )
    np.testing.assert_allclose(images, drawn_page['decoder'].predict(points), atol=1e-4)


def test_weights_for_the_encoder(drawn_page):
    """The recipe says that they have to be loaded into vae."""
    encoder = drawn_page['encoder']
    before = encoder.get_weights()
    zeros = [0 * array for array in before]
    encoder.set_weights(zeros)
    encoder.load_weights(WEIGHTS, by_name=True)
    assert not any(array.any() for array in encoder.get_weights())
    drawn_page['vae'].load_weights(WEIGHTS)
    assert all(map(np.array_equal, encoder.get_weights(), before))
