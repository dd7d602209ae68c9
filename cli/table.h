// Aligned text tables: a header, rows, two blanks between columns, nothing behind the last one.
#pragma once

#include <string>
#include <vector>

#include "cli/terminal.h"

namespace understudy::cli {

/// One cell; the text is made printable when it is added.
struct Cell {
  std::string text;
  Colour colour = Colour::none;
};

/// Collects rows and renders them once all widths are known. Empty cells are shown as "-".
class Table {
 public:
  /// `headings` in capitals by custom; with none the table has no header line.
  explicit Table(std::vector<std::string> headings) : headings_(std::move(headings)) {}

  /// Adds a row; shorter rows are filled with empty cells.
  void add(std::vector<Cell> row);

  [[nodiscard]] bool empty() const { return rows_.empty(); }

  /// The table as lines, each starting with `indent` blanks and ending in '\n'.
  [[nodiscard]] std::string render(const Terminal& terminal, std::size_t indent = 0) const;

 private:
  std::vector<std::string> headings_;
  std::vector<std::vector<Cell>> rows_;
};

}  // namespace understudy::cli
