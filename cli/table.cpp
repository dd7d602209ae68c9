#include "cli/table.h"

#include <algorithm>

namespace understudy::cli {

void Table::add(std::vector<Cell> row) {
  for (Cell& cell : row) {
    cell.text = cell.text.empty() ? "-" : printable(cell.text);
  }
  while (row.size() < headings_.size()) {
    row.push_back({"-"});
  }
  rows_.push_back(std::move(row));
}

std::string Table::render(const Terminal& terminal, std::size_t indent) const {
  std::vector<std::size_t> widths;
  const auto widen = [&](std::size_t column, std::string_view text) {
    if (widths.size() <= column) {
      widths.resize(column + 1);
    }
    widths[column] = std::max(widths[column], display_width(text));
  };
  for (std::size_t column = 0; column < headings_.size(); ++column) {
    widen(column, headings_[column]);
  }
  for (const auto& row : rows_) {
    for (std::size_t column = 0; column < row.size(); ++column) {
      widen(column, row[column].text);
    }
  }

  std::string result;
  const auto line = [&](const std::vector<Cell>& row) {
    result.append(indent, ' ');
    for (std::size_t column = 0; column < row.size(); ++column) {
      result += terminal.paint(row[column].text, row[column].colour);
      if (column + 1 < row.size()) {
        result.append(widths[column] - display_width(row[column].text) + 2, ' ');
      }
    }
    result += '\n';
  };
  if (!headings_.empty()) {
    std::vector<Cell> header;
    header.reserve(headings_.size());
    for (const std::string& heading : headings_) {
      header.push_back({heading, Colour::dim});
    }
    line(header);
  }
  for (const auto& row : rows_) {
    line(row);
  }
  return result;
}

}  // namespace understudy::cli
