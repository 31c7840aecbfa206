"""The whole table of bad inputs, from the files that hold its rows."""

from bad_inputs import ROWS, BadInput
from bad_inputs_ans import ANS_ROWS
from bad_inputs_autoformer import AUTOFORMER
from bad_inputs_folders import FOLDERS
from bad_inputs_machines import MACHINES
from bad_inputs_search import rows as search_rows
from bad_inputs_spos import rows as spos_rows
from bad_inputs_study import STUDY_ROWS

BAD_INPUTS = [
    *ROWS,
    *ANS_ROWS,
    *AUTOFORMER,
    *FOLDERS,
    *MACHINES,
    *STUDY_ROWS,
    *search_rows(BadInput),
    *spos_rows(BadInput),
]
