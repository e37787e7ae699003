"""tools/check_layers.py finds what it is there to find."""
import pathlib
import sys
import unittest

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[2] / "tools"))
import check_layers


class CheckLayersTest(unittest.TestCase):
    def found(self, name, text):
        return list(check_layers.breaches(name, text))

    def test_includes_go_one_way(self):
        self.assertEqual(self.found("src/engine/x.cc", '#include "core/status.h"\n#include "engine/engine.h"\n'), [])
        (breach,) = self.found("src/core/x.cc", '#include <vector>\n#include "engine/engine.h"\n')
        self.assertEqual(breach, 'src/core/x.cc:2: core may not include "engine/engine.h"')

    def test_includes_start_at_src(self):
        (breach,) = self.found("src/core/x.cc", '#include "status.h"\n')
        self.assertIn("no path from src/", breach)

    def test_new_folders_need_a_place(self):
        (breach,) = self.found("src/other/x.cc", "")
        self.assertIn("src/other has no place", breach)

    def test_long_files(self):
        self.assertEqual(self.found("tests/x.cc", "\n" * 499), [])
        self.assertEqual(len(self.found("tests/x.cc", "\n" * 500)), 1)

    def test_words_and_paths(self):
        self.assertEqual(len(self.found("tools/x.py", "# TO" + "DO: later\n")), 1)
        self.assertEqual(len(self.found("tools/x.py", "open('/ho" + "me/somebody/x')\n")), 1)


if __name__ == "__main__":
    unittest.main()
